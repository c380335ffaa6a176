"""Programs of DSPy on our engine: what is searched is what they send."""

import asyncio
import copy
import importlib.util
import json
import logging
import pickle
import re
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy import lm15
from dspy.teleprompt import BetterTogether

from greater_fast.engine import RolloutRequest
from greater_fast.front_ends.dspy import (
    AsyncGreaterEngine,
    GReaTer,
    GreaterEngine,
    InstructionLast,
    local_lm,
)
from greater_fast.front_ends.dspy.rows import Reply
from greater_fast.front_ends.dspy.sending import MARK, Target
from greater_fast.model.lm import LM, load_lm
from greater_fast.texts.generation import generate
from tests.docs.pages import ROOT
from tests.tiny import LLAMA3_TEMPLATE, PROMPT, boolean_rows, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.front_ends

SEARCH = {
    "objective": "loss",
    "steps": 2,
    "num_train": 4,
    "num_dev": 4,
    "num_finalists": 3,
    "num_proposal_examples": 2,
    "num_draws": 3,
    "max_prompt_tokens": 40,
}
LIMIT = 10  # tokens of a reply
HEADER = "\n\n[[ ## answer ## ]]\n"


class Lenient(dspy.ChatAdapter):
    """Reads whatever the tiny model writes: the last word is the answer."""

    def __init__(self, use_json_adapter_fallback: bool = False) -> None:
        super().__init__(use_json_adapter_fallback=use_json_adapter_fallback)

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        *_, last = ["nothing", *completion.split()]
        return dict.fromkeys(signature.output_fields, completion) | {"answer": last}


class LenientLast(Lenient, InstructionLast):
    """The same, instructions last."""


class Marked(Lenient):
    """Names the answer by a word that the tiny model writes by itself."""

    mark = ""

    def format_assistant_message_content(
        self, signature: Any, outputs: dict[str, Any], missing_field_message: Any = None
    ) -> str:
        return f"{outputs['reasoning']}{self.mark}\n{outputs['answer']}\n"


def odd(example: Any, prediction: Any, trace: Any = None) -> float:
    """A metric that different replies get different values of."""
    return zlib.crc32(f"{example.question}{prediction.answer}".encode()) % 7 / 6


def examples(number: int, first: int = 0) -> list[Any]:
    pairs = boolean_rows(first + number)[first:]
    return [dspy.Example(question=q, answer=a).with_inputs("question") for q, a in pairs]


def thought(instructions: str = PROMPT, fields: str = "question -> answer") -> Any:
    return dspy.ChainOfThought(dspy.Signature(fields, instructions))


def compiled(student: Any, train: int = 6, val: int = 6, **given: Any) -> tuple[Any, GReaTer]:
    """The program found on boolean rows, and what found it."""
    optimizer = GReaTer(**{"metric": odd, "config": SEARCH, **given})
    rows = examples(train + val)
    return optimizer.compile(student, trainset=rows[:train], valset=rows[train:]), optimizer


@pytest.fixture(scope="module", autouse=True)
def no_cache() -> None:
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)


@pytest.fixture(scope="module")
def attentive(tokenizer: Any) -> LM:
    """A tiny model that attends to all of its context, so that instructions change its replies."""
    model = tiny_model("llama", len(tokenizer))
    model.config.max_position_embeddings = 2048
    for name, weight in model.named_parameters():
        weight.mul_({"q_proj": 3, "o_proj": 4}.get(name.split(".")[-2], 1))
    return load_lm((model, tokenizer))


@pytest.fixture(scope="module")
def asked(attentive: LM) -> Any:
    """The tiny model as a DSPy LM."""
    return local_lm(attentive, config={"max_new_tokens": LIMIT})


@pytest.fixture
def context(asked: Any) -> Iterator[None]:
    """DSPy configured as a user does, for the length of a test."""
    with dspy.context(lm=asked, adapter=LenientLast()):
        yield


class Recording(list[tuple[Any, Any]]):
    """All that an engine was asked, with what it gave."""

    def __init__(self, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        run = engine.run

        def recorded(requests: Any, on_finished: Any = None) -> Any:
            found = run(requests, on_finished)
            self.extend(zip(requests, found, strict=True))
            return found

        monkeypatch.setattr(engine, "run", recorded)


# What compile gives.


@pytest.mark.usefixtures("context")
def test_a_program_is_compiled() -> None:
    student = thought()
    before = student.dump_state()
    seen: list[Any] = []
    better, optimizer = compiled(student, on_step=seen.append)
    assert isinstance(better, dspy.ChainOfThought)
    assert better is not student
    assert student.dump_state() == before
    state = better.dump_state()
    assert better.predict.signature.instructions == optimizer.report["prompt"]
    state["predict"]["signature"]["instructions"] = PROMPT
    assert state == before
    assert len(seen) == optimizer.report["num_steps"] == optimizer.result.num_steps == 2
    assert (optimizer.report["num_train"], optimizer.report["num_val"]) == (4, 6)


@pytest.mark.usefixtures("context")
def test_the_users_metric_on_the_users_program_decides() -> None:
    better, optimizer = compiled(thought("Think of it."))
    evaluate = dspy.Evaluate(devset=examples(12)[6:], metric=odd, num_threads=1)
    report, ranked = optimizer.report, better.candidate_programs
    assert evaluate(better).score == report["score"] >= report["initial_score"]
    assert evaluate(thought("Think of it.")).score == report["initial_score"]
    scores = [each["score"] for each in ranked]
    assert scores == [evaluate(each["program"]).score for each in ranked]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 1  # else nothing was decided
    assert scores[0] == report["score"]
    assert len(ranked) == 4  # finalists, and the initial one
    assert report["initial_num_unread"] == report["num_unread"] == 0


@pytest.mark.usefixtures("context")
def test_of_equals_the_students_own_instructions_stay() -> None:
    better, optimizer = compiled(thought(), metric=lambda example, prediction, trace=None: True)
    assert better.predict.signature.instructions == PROMPT
    assert optimizer.report["score"] == optimizer.report["initial_score"] == 100.0


def sent(program: Any, row: Any, asked: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the engine is asked, and gives, when a program is called."""
    with monkeypatch.context() as patch:
        recording = Recording(asked.engine.engine, patch)
        program(**row.inputs())
    return recording


@pytest.mark.usefixtures("context")
def test_the_report_has_both_figures(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that are right where the header is forced, beside what the metric says of replies."""
    rows, student, local = examples(40), thought(), asked.engine
    words = []
    for row in rows:
        ((request, rollout),) = sent(student, row, asked, monkeypatch)
        header = local.lm.vocabulary.ids(HEADER.rstrip())
        asking = (*request.prompt_ids, *rollout.reasoning_ids, *header)
        (answer,) = local.engine.run([RolloutRequest(asking, 8, local.lm.end_ids)])
        line, *_ = local.lm.vocabulary.text(answer.reasoning_ids).strip().split("\n")
        words += re.findall(r"(?<!\S)[A-Za-z]{2,}(?!\S)", line)[:1] or ["zebra"]
    known = [number for number, word in enumerate(words) if word != "zebra"]
    train, val = known[:4], known[4:8]
    right = {*train[:2], *val[:3]}
    labelled = [
        dspy.Example(question=row.question, answer=word if number in right else "zebra")
        for number, (row, word) in enumerate(zip(rows, words, strict=True))
    ]
    labelled = [row.with_inputs("question") for row in labelled]
    config = {**SEARCH, "objective": "error", "metric": "contains", "steps": 0}
    optimizer = GReaTer(lambda example, prediction, trace=None: 0.25, config=config)
    optimizer.compile(
        student, trainset=[labelled[n] for n in train], valset=[labelled[n] for n in val]
    )
    report = optimizer.report
    assert optimizer.result.initial.error_rate == 0.5
    assert report["initial_forced_accuracy"] == report["forced_accuracy"] == 75.0
    assert report["initial_score"] == report["score"] == 25.0


@pytest.mark.usefixtures("context")
def test_rows_without_labels_can_judge() -> None:
    rows = examples(8)
    unlabelled = [row.without("answer").with_inputs("question") for row in rows[4:]]
    optimizer = GReaTer(odd, config=SEARCH)
    optimizer.compile(thought(), trainset=rows[:4], valset=unlabelled)
    assert optimizer.report["forced_accuracy"] is None
    assert optimizer.report["num_val"] == 4


@pytest.mark.usefixtures("context")
def test_a_valset_is_judged_on_whole() -> None:
    """Its repeated rows too, and those of the trainset, which are not searched on."""
    rows = examples(8)
    val = [*rows[4:], rows[5], *rows[:2], rows[7]]
    better = (optimizer := GReaTer(odd, config=SEARCH)).compile(
        thought(), trainset=rows[:6], valset=val
    )
    report = optimizer.report
    assert (report["num_train"], report["num_val"]) == (2, 8)
    evaluate = dspy.Evaluate(devset=val, metric=odd, num_threads=1)
    assert evaluate(better).score == report["score"]
    assert evaluate(thought()).score == report["initial_score"]
    told = ["train: 2 of 2 rows used, 4 more are in the valset", "val: all 8 rows used"]
    assert report["notes"][:2] == told


@pytest.mark.usefixtures("context")
def test_without_a_valset_rows_are_drawn_and_not_searched_on() -> None:
    judged: set[str] = set()

    def metric(example: Any, prediction: Any, trace: Any = None) -> bool:
        judged.add(example.question)
        return True

    rows = examples(10)
    optimizer = GReaTer(metric, config={**SEARCH, "seed": 3})
    optimizer.compile(thought(), trainset=rows)
    assert len(judged) == 4
    assert judged < {row.question for row in rows}
    assert optimizer.report["num_train"] == 4
    assert "drawn from the train source" in " ".join(optimizer.report["notes"])
    first = set(judged)
    judged.clear()
    GReaTer(metric, config=SEARCH).compile(thought(), trainset=rows)
    assert judged != first


# What is searched is what DSPy sends.


@pytest.mark.parametrize("kind", ["paged", "generate"])
@pytest.mark.parametrize("adapter", [Lenient, LenientLast, dspy.XMLAdapter])
def test_the_ids_searched_on_are_the_ids_sent(
    attentive: LM, kind: str, adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = local_lm(attentive, config={"max_new_tokens": LIMIT, "engine": kind})
    student = thought("Answer in one word.\n\n  Be careful.\nThink about it step by step.")
    demo = dspy.Example(question="Is it?", reasoning="It is not.", answer="False")
    student.predict.demos = [demo]
    rows = examples(8)
    metric = lambda example, prediction, trace=None: 0.0  # noqa: E731
    optimizer = GReaTer(metric, config={**SEARCH, "seed": 1})
    # Replies are not judged here, so that of equals the initial instructions would stay.
    monkeypatch.setattr(
        "greater_fast.front_ends.dspy.judging.ProgramJudge._score",
        lambda self, prompt: self.num_unread.setdefault(prompt, 0) or prompt != self.target.prompt,
    )
    with dspy.context(lm=asked, adapter=adapter(use_json_adapter_fallback=False)):
        with monkeypatch.context() as patch:
            searched = Recording(asked.engine.engine, patch)
            better = optimizer.compile(student, trainset=rows[:4], valset=rows[4:])
        assert better.predict.signature.instructions != student.predict.signature.instructions
        rollouts = {request.prompt_ids: rollout for request, rollout in searched}
        with monkeypatch.context() as patch:
            called = Recording(asked.engine.engine, patch)
            for program in (student, better):
                for row in rows[:4]:
                    try:
                        program(**row.inputs())
                    except dspy.AdapterParseError:
                        assert adapter is dspy.XMLAdapter
    assert len(called) == 8
    for request, completion in called:
        assert request.prompt_ids in rollouts
        assert completion.reasoning_ids == rollouts[request.prompt_ids].reasoning_ids
        assert completion.end_id == rollouts[request.prompt_ids].end_id
    text = attentive.vocabulary.whole_text(called[-1][0].prompt_ids)
    assert "It is not." in text
    instructions = better.predict.signature.instructions
    assert instructions.startswith("Answer in one word.\n\n  Be careful.\n")
    assert (
        f"Be careful.\n{'' if adapter is LenientLast else 8 * ' '}" + (optimizer.report["prompt"])
        in text
    )


def test_a_reasoning_is_the_reply_up_to_the_header(
    asked: Any, attentive: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, program, adapter = examples(8), thought(), Marked()
    with dspy.context(lm=asked, adapter=adapter):
        replies = [program(**row.inputs()).reasoning for row in rows]
        ((adapter.mark, _), *_) = Counter(
            word for reply in replies for word in set(re.findall(r" [a-z]+", reply[1:]))
        ).most_common()
        with monkeypatch.context() as patch:
            searched = Recording(asked.engine.engine, patch)
            GReaTer(odd, config={**SEARCH, "steps": 0, "num_train": 6}).compile(
                program, trainset=rows[:6], valset=rows[6:]
            )
        written = {}
        for row in rows[:6]:
            ((request, rollout),) = sent(program, row, asked, monkeypatch)
            written[request.prompt_ids] = attentive.vocabulary.text(rollout.reasoning_ids)
    cut = 0
    for request, rollout in searched:
        if request.target_ids and request.prompt_ids in written:
            reply = written[request.prompt_ids]
            stop = min(
                (reply.find(t) for t in (adapter.mark, adapter.mark[1:]) if t in reply), default=-1
            )
            assert attentive.vocabulary.text(rollout.reasoning_ids) == (
                reply[:stop] if stop >= 0 else reply
            )
            assert (rollout.stop_text is None) == (stop < 0)
            cut += stop >= 0
            asking = attentive.vocabulary.text(request.target_ids)
            assert asking.startswith(f"{adapter.mark}\n")
    assert cut


@pytest.mark.parametrize("owner", ["predictor", "lm"])
def test_the_users_stop_texts_end_a_reasoning_too(
    asked: Any, attentive: LM, monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    rows, program = examples(8), thought()
    with dspy.context(lm=asked, adapter=LenientLast()):
        replies = [program(**row.inputs()).reasoning for row in rows]
        ((stop, _), *_) = Counter(
            word for reply in replies for word in set(re.findall(r"[a-z]{3,}", reply[1:]))
        ).most_common()
        if owner == "predictor":
            program.predict.update_config(stop=[stop])
        lm = asked.copy(stop=[stop]) if owner == "lm" else asked
        with dspy.context(lm=lm):
            with monkeypatch.context() as patch:
                searched = Recording(asked.engine.engine, patch)
                compiled(program, config={**SEARCH, "steps": 0, "num_train": 6})
            rollouts = {request.prompt_ids: rollout for request, rollout in searched}
            num_stopped = 0
            for row in rows[:6]:
                ((request, rollout),) = sent(program, row, asked, monkeypatch)
                assert rollouts[request.prompt_ids].reasoning_ids == rollout.reasoning_ids
                num_stopped += rollout.stop_text is not None
    assert num_stopped


@pytest.mark.usefixtures("context")
def test_other_stop_texts_from_row_to_row_are_refused() -> None:
    class Fickle(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = thought()

        def forward(self, question: str) -> Any:
            return self.ask(question=question, config={"stop": [f"{len(question)}."]})

    with pytest.raises(ValueError, match=r"stop: ask.predict is asked with other stop texts from"):
        compiled(Fickle())


def test_instructions_last_follow_the_question(asked: Any) -> None:
    row = {"question": "How many?"}
    signature = thought().predict.signature
    adapter = InstructionLast()
    system, user = adapter.format(signature, [], row)
    assert PROMPT not in system["content"]
    assert "objective" not in system["content"]
    assert user["content"].endswith(f"completed ## ]]`.\n\nYour objective is: {PROMPT}")
    demo = {"question": "So?", "reasoning": "Yes.", "answer": "5"}
    shown = adapter.format(signature, [demo], row)
    assert [PROMPT in message["content"] for message in shown] == [False, False, False, True]
    notes = {}
    for adapter in (Lenient(use_json_adapter_fallback=True), LenientLast()):
        with dspy.context(lm=asked, adapter=adapter):
            metric = lambda example, prediction, trace=None: 1  # noqa: E731
            _, optimizer = compiled(thought(), config={**SEARCH, "steps": 0}, metric=metric)
            notes[type(adapter)] = " ".join(optimizer.report["notes"])
    assert "stand before the inputs" in notes[Lenient]
    assert "stand before the inputs" not in notes[LenientLast]
    assert "JSONAdapter" in notes[Lenient]
    assert "JSONAdapter" not in notes[LenientLast]


@pytest.mark.usefixtures("context")
def test_a_program_may_change_its_inputs(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is recorded is what the program sends, and not what its example says."""

    class Shouting(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hint = dspy.Predict("question -> hint")
            self.reply = thought(fields="question, hint -> answer")

        def forward(self, question: str) -> Any:
            return self.reply(question=question.upper(), hint="none at all")

    with monkeypatch.context() as patch:
        searched = Recording(asked.engine.engine, patch)
        better, _ = compiled(Shouting(), predictor="reply.predict")
    texts = [
        asked.engine.lm.vocabulary.whole_text(request.prompt_ids)
        for request, _ in searched
        if request.target_ids
    ]
    assert texts
    assert all("QUESTION 1" in t or "QUESTION" in t for t in texts)
    assert all("none at all" in t for t in texts)
    assert better.hint.signature.instructions == Shouting().hint.signature.instructions


class Shuffled(dspy.Module):
    """Gives its predictor something else in each run."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = thought()
        self.questions: list[str] = []

    def forward(self, question: str) -> Any:
        self.questions.append(question)
        return self.ask(question=f"{len(self.questions)}: {question}")

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = type(self)()
        copied.ask, copied.questions = copy.deepcopy(self.ask, memo), self.questions
        return copied


@pytest.mark.usefixtures("context")
def test_a_program_may_be_random_and_runs_once_for_each_row() -> None:
    student, seen = Shuffled(), list[Any]()
    target = Target.of(student, None, None)
    rows = examples(4)
    for number, (own, marked) in enumerate(target.sent(rows), 1):
        system, user = (own.system, own.messages[-1].text)
        assert f"{number}: {rows[number - 1].question}" in user
        assert marked.messages[-1].text == user.replace(PROMPT, MARK)
        assert (marked.system, marked.config) == (system, own.config)
    assert student.questions == [row.question for row in rows]
    metric = lambda *given: seen.append(len(student.questions)) or 1  # noqa: E731
    compiled(student, metric=metric, num_threads=1)
    assert min(seen) == 4 + 4 + 6 + 1  # rows recorded, then the first that is scored


@pytest.mark.usefixtures("context")
def test_a_program_may_call_its_predictors_forward() -> None:
    class Direct(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = dspy.Predict(dspy.Signature("question -> answer", PROMPT))

        def forward(self, question: str) -> Any:
            return self.ask.forward(question=question)

    target, rows = Target.of(Direct(), None, None), examples(2)
    for row, (own, marked) in zip(rows, target.sent(rows), strict=True):
        assert row.question in own.messages[-1].text
        assert own.messages[-1].text.replace(PROMPT, MARK) == marked.messages[-1].text


@pytest.mark.usefixtures("context")
def test_a_program_that_awaits_its_predictor_is_compiled() -> None:
    class Awaiting(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = thought()

        def forward(self, question: str) -> Any:
            return asyncio.run(self.ask.acall(question=question))

    better, optimizer = compiled(Awaiting())
    assert better.ask.predict.signature.instructions == optimizer.report["prompt"]
    assert optimizer.report["num_steps"] == 2


@pytest.mark.usefixtures("context")
def test_another_engine_searches_where_settings_of_it_differ(
    asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The LM's own answers calls alone then; limits are the LM's, or those that are given."""
    limits: dict[float, list[set[int]]] = {}
    for temperature, more in ((1.0, {}), (0.2, {"max_new_tokens": 3})):
        with monkeypatch.context() as patch:
            recording = Recording(asked.engine.engine, patch)
            config = {**SEARCH, **more, "temperature": temperature}
            compiled(thought(), 4, 2, config=config)
        searched = {r.max_new_tokens for r, _ in recording if r.target_ids}
        limits[temperature] = [searched, {r.max_new_tokens for r, _ in recording} - searched]
    assert limits == {1.0: [set(), {LIMIT}], 0.2: [{3}, {LIMIT}]}


# How answers are asked for.


def reply_of(student: Any, adapter: Any, answer: str | None = None) -> Reply:
    with dspy.context(adapter=adapter):
        return Reply.of(Target.of(student, None, answer))


@pytest.mark.parametrize(
    ("adapter", "header", "closing"),
    [
        (dspy.ChatAdapter(), HEADER, "\n\n"),
        (InstructionLast(), HEADER, "\n\n"),
        (dspy.XMLAdapter(), "\n</reasoning>\n\n<answer>\n", "\n"),
    ],
)
def test_the_adapters_header_asks_for_the_answer(adapter: Any, header: str, closing: str) -> None:
    reply = reply_of(thought(), adapter)
    extractor = reply.extractor()
    assert extractor.in_place() + extractor.answer_in_place("18") == f"{header}18{closing}"
    assert reply.stop_texts() == [header.rstrip(), header.strip()]
    whole = adapter.format_assistant_message_content(
        thought().predict.signature, {"reasoning": "So.", "answer": "18"}
    )
    assert f"So.{header}18{closing}" in whole


@pytest.mark.parametrize(
    ("kind", "value", "written"),
    [
        ("str", " yes ", "yes"),
        ("int", 24, "24"),
        ("float", 2.5, "2.5"),
        ("bool", True, "True"),
        ("Literal['a', 'b']", "b", "b"),
        ("Literal[1, 2]", 2, "2"),
    ],
)
def test_gold_answers_are_written_as_dspy_writes_them(kind: str, value: Any, written: str) -> None:
    reply = reply_of(thought(fields=f"question -> answer: {kind}"), None)
    row = dspy.Example(question="How many?", answer=value).with_inputs("question")
    assert reply.example(row, "row 0").answer == written
    parsed = dspy.ChatAdapter().parse(
        reply.target.predictor.signature, f"[[ ## reasoning ## ]]\nSo.{HEADER}{written}\n\n"
    )
    assert parsed["answer"] == (value.strip() if isinstance(value, str) else value)


def test_xml_escapes_the_gold() -> None:
    row = dspy.Example(question="Which?", answer="a & b").with_inputs("question")
    assert reply_of(thought(), dspy.XMLAdapter()).example(row, "row 0").answer == "a &amp; b"


@pytest.mark.usefixtures("context")
def test_an_answer_alone_is_asked_for_at_once() -> None:
    student = dspy.Predict(dspy.Signature("question -> answer", PROMPT))
    reply = reply_of(student, None)
    assert reply.extractor().in_place() == "[[ ## answer ## ]]"
    assert reply.stop_texts() == ["[[ ## answer ## ]]"]
    better, optimizer = compiled(student)
    assert isinstance(better, dspy.Predict)
    assert "without any reasoning" in " ".join(optimizer.report["notes"])


def test_another_output_field_may_have_the_gold() -> None:
    student = thought(fields="question -> size: int, answer, why")
    reply = reply_of(student, None, "size")
    assert reply.extractor().in_place() == "\n\n[[ ## size ## ]]"
    assert reply_of(student, None).extractor().in_place() == "\n\n[[ ## why ## ]]"


# The LM.


def request_of(asked: Any, text: str = "Say something.", **config: Any) -> Any:
    messages = (lm15.Message.user(text),)
    return lm15.Request(model=asked.model, messages=messages, config=lm15.Config(**config))


def test_the_engine_writes_what_generate_writes(asked: Any, attentive: LM) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": "It is."},
        {"role": "user", "content": "What?"},
    ]
    text = attentive.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    (expected,) = generate(asked.engine.engine, [text], LIMIT)
    request = lm15.request_from_openai_chat({"model": asked.model, "messages": messages})
    response = asked(request)
    assert asked.engine.text(request) == text
    assert response.text == expected.text
    assert response.finish_reason == ("stop" if expected.finished else "length")
    assert response.usage.input_tokens == expected.num_prompt_tokens
    assert response.usage.output_tokens == expected.num_tokens
    assert asked("What is it?") == [asked(request_of(asked, "What is it?")).text]


def test_a_conversation_goes_through_the_template_once(
    asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[Any] = []
    text = GreaterEngine.text
    monkeypatch.setattr(GreaterEngine, "text", lambda self, r: rendered.append(r) or text(self, r))
    request = request_of(asked, max_tokens=2)
    asked.engine.complete(request)
    assert rendered == [request]


def test_limit_and_stop_texts_are_honoured(asked: Any) -> None:
    whole = asked(request_of(asked, "What is it?", max_tokens=30)).text
    short = asked(request_of(asked, "What is it?", max_tokens=2, temperature=0.0))
    assert (short.finish_reason, short.usage.output_tokens) == ("length", 2)
    assert whole.startswith(short.text)
    stop = re.findall("[A-Za-z]{2}", whole)[-1]
    stopped = asked(request_of(asked, "What is it?", max_tokens=30, stop=(stop,)))
    assert (stopped.text, stopped.finish_reason) == (whole.partition(stop)[0], "stop")


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"temperature": 0.7}, "temperature"),
        ({"top_p": 0.9}, "top_p"),
        ({"seed": 0}, "seed"),
        ({"logprobs": 0}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"extensions": {"logit_bias": {"5": 1}}}, "extensions"),
    ],
)
def test_what_it_cannot_honour_it_refuses(asked: Any, config: dict[str, Any], name: str) -> None:
    with pytest.raises(lm15.UnsupportedFeatureError, match=f"config.{name}: this engine takes"):
        asked.engine.complete(request_of(asked, **config))
    with pytest.raises(dspy.LMUnsupportedFeatureError):
        asked(request_of(asked, **config))


def test_messages_that_are_no_text_are_refused(asked: Any) -> None:
    image = lm15.ImagePart(url="memory:picture.png")
    picture = lm15.Request(model=asked.model, messages=(lm15.Message.user(["What is it?", image]),))
    late = lm15.Request(
        model=asked.model, messages=(lm15.Message.user("So?"), lm15.Message.developer("Be brief."))
    )
    for request, role in ((picture, "0 of role user"), (late, "1 of role developer")):
        with pytest.raises(lm15.UnsupportedFeatureError, match=f"message {role}: .* reads text of"):
            asked.engine.complete(request)
    tools = lm15.Request(
        model=asked.model,
        messages=(lm15.Message.user("So?"),),
        tools=(lm15.FunctionTool(name="look", description="", parameters={"type": "object"}),),
    )
    with pytest.raises(lm15.UnsupportedFeatureError, match="tools: this engine"):
        asked.engine.complete(tools)


def test_what_does_not_fit_the_context_is_refused(asked: Any) -> None:
    with pytest.raises(dspy.ContextWindowExceededError, match="do not fit the context of 2048"):
        asked(request_of(asked, "word " * 2100))
    with pytest.raises(lm15.ContextLengthError, match="a reply of up to 2040"):
        asked.engine.complete(request_of(asked, max_tokens=2040))


def test_what_the_pool_or_the_template_refuses_is_told(attentive: LM) -> None:
    small = GreaterEngine(attentive, {"kv_cache_bytes": 1 << 16})
    request = lm15.Request(model="m", messages=(lm15.Message.user("word " * 500),))
    with pytest.raises(lm15.InvalidRequestError, match="tokens"):
        small.complete(request)
    tokenizer = copy.deepcopy(attentive.tokenizer)
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    refusing = GreaterEngine((attentive.model, tokenizer))
    with pytest.raises(lm15.InvalidRequestError, match="refused the conversation: System role"):
        refusing.complete(request)


def test_threads_are_served_together(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = [f"What is {number}?" for number in range(8)]
    expected = [asked(request_of(asked, question)).text for question in questions]
    found: dict[str, str] = {}
    sizes: list[int] = []
    run = asked.engine.engine.run
    monkeypatch.setattr(
        asked.engine.engine, "run", lambda r, *rest: sizes.append(len(r)) or run(r, *rest)
    )
    start = threading.Barrier(8)

    def ask(question: str) -> None:
        start.wait()
        found[question] = asked(request_of(asked, question)).text

    threads = [threading.Thread(target=ask, args=(question,)) for question in questions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[question] for question in questions] == expected
    assert sum(sizes) == 8
    assert max(sizes) > 1


@pytest.mark.usefixtures("context")
def test_eight_threads_evaluate_as_one() -> None:
    program, rows = thought(), examples(12)
    one, eight = (
        dspy.Evaluate(devset=rows, metric=odd, num_threads=number)(program) for number in (1, 8)
    )
    assert one.score == eight.score
    for (_, first, value), (_, second, other) in zip(one.results, eight.results, strict=True):
        assert (first.reasoning, first.answer, value) == (second.reasoning, second.answer, other)


@pytest.mark.usefixtures("context")
def test_it_streams_and_is_awaited(asked: Any) -> None:
    request = request_of(asked)
    engine, awaited = asked.engine, AsyncGreaterEngine(asked.engine)
    expected = engine.complete(request)
    assert lm15.materialize_response(engine.stream(request), request).text == expected.text

    async def events() -> list[Any]:
        return [event async for event in awaited.stream(request)]

    assert asyncio.run(events()) == list(engine.stream(request))
    assert asyncio.run(awaited.complete(request)) == expected
    program, row = thought(), examples(1)[0]
    assert asyncio.run(program.acall(**row.inputs())).answer == program(**row.inputs()).answer


def test_copies_share_the_engine(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    program = thought()
    program.set_lm(asked)
    for copied in (program.deepcopy(), copy.deepcopy(program)):
        assert copied.predict.lm is not asked
        assert copied.predict.lm.engine is asked.engine
    assert asked.copy(max_tokens=5).engine is asked.engine


# Saved and loaded.


def test_a_compiled_program_is_saved_and_loaded(asked: Any, tmp_path: Path) -> None:
    with dspy.context(lm=asked, adapter=LenientLast()):
        better, optimizer = compiled(thought())
        better.save(tmp_path / "program.json")
        again = thought("Something else entirely.")
        again.load(tmp_path / "program.json")
        row = examples(1)[0]
        assert again.predict.signature.instructions == optimizer.report["prompt"]
        assert again(**row.inputs()).reasoning == better(**row.inputs()).reasoning


def test_an_lm_is_saved_by_its_model(model_folder: Path, tmp_path: Path) -> None:
    config = {"max_new_tokens": 4, "chat_template_kwargs": {}, "device": "cpu"}
    asked = local_lm(str(model_folder), config=config)
    program, again = thought(), thought("Something else entirely.")
    program.set_lm(asked)
    program.save(tmp_path / "program.json")
    state = json.loads((tmp_path / "program.json").read_text())["predict"]["lm"]
    saved = {"model": str(model_folder), "config": {"max_new_tokens": 4, "device": "cpu"}}
    assert state["engine"]["state"] == state["async_engine"]["state"] == saved
    again.load(tmp_path / "program.json", allow_unsafe_lm_state=True)
    assert again.predict.signature.instructions == PROMPT
    assert again.predict.lm.engine is asked.engine  # which is alive
    assert pickle.loads(pickle.dumps(asked.engine)) is asked.engine
    question = examples(1)[0].inputs()
    with dspy.context(adapter=Lenient()):
        assert again(**question).answer == program(**question).answer
    del asked, program, again, state
    other = GreaterEngine.load_state(saved)
    assert (other.config.max_new_tokens, other.lm.name) == (4, str(model_folder))


def test_an_lm_of_a_loaded_model_is_not_saved(asked: Any, tmp_path: Path) -> None:
    program = thought()
    program.set_lm(asked)
    with pytest.raises(ValueError, match="given as an object, which a saved program cannot name"):
        program.save(tmp_path / "program.json")


# Beside other parts of DSPy.


def test_better_together_runs_it(asked: Any) -> None:
    program = thought()
    program.set_lm(asked)
    with dspy.context(adapter=LenientLast()):
        optimizer = BetterTogether(odd, p=GReaTer(odd, config=SEARCH))
        better = optimizer.compile(program, trainset=examples(10), valset_ratio=0.4, strategy="p")
        assert not better.flag_compilation_error_occurred
        scores = {each["strategy"]: each["score"] for each in better.candidate_programs}
        assert scores.keys() == {"", "p"}
        assert scores["p"] >= scores[""]
    assert better.predict.lm.engine is asked.engine


def test_nothing_deprecated_is_used_and_no_litellm(
    asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning is an error in these tests; an import of litellm would be one, too."""
    monkeypatch.setitem(sys.modules, "litellm", None)
    with dspy.context(lm=asked, adapter=LenientLast(), track_usage=True):
        better, _ = compiled(thought(), config={**SEARCH, "steps": 1})
        usage = better(**examples(1)[0].inputs()).get_lm_usage()
    assert usage[asked.model]["prompt_tokens"] > 100


# What is refused.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"predictor": "other"}, r"predictor: got 'other', expected one of predict"),
        ({"answer_field": "question"}, r"answer_field: got 'question', .* gives reasoning, answer"),
        ({"config": {"extractor": "So:"}}, r"config: extractor: the adapter decides that"),
        ({"config": {"chat_template_kwargs": {"a": 1}}}, r"chat_template_kwargs is the LM's"),
        ({"config": {"step": 1}}, r"step: unknown"),
        ({"config": {**SEARCH, "gradient": "both"}}, r"stop_texts: got some with gradient"),
        ({"config": {**SEARCH, "sampling_temperature": 1.0}}, r"sampling_temperature is the LM's"),
    ],
)
@pytest.mark.usefixtures("context")
def test_bad_arguments(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compiled(thought(), **given)


@pytest.mark.usefixtures("context")
def test_bad_programs() -> None:
    class Two(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = thought(), thought()

        def forward(self, question: str) -> Any:
            return self.first(question=question)

    with pytest.raises(ValueError, match=r"has 2 .*first.predict, second.predict.*predictor="):
        compiled(Two())
    with pytest.raises(ValueError, match=r"answers row 0 \(.*\) without asking second.predict"):
        compiled(Two(), predictor="second.predict")
    with pytest.raises(ValueError, match="no last line to begin a search from"):
        compiled(thought("Think.\n\n \n\x0b"))
    with pytest.raises(ValueError, match="has 1 tokens, expected 2"):
        compiled(thought("Think"))
    with pytest.raises(ValueError, match="name a special token"):
        compiled(thought("Think, and write <|eot_id|> then."))
    with pytest.raises(ValueError, match=r"of type list.*an answer of one line"):
        compiled(thought(fields="question -> answer: list[str]"))
    with pytest.raises(ValueError, match="teacher: got one"):
        GReaTer(odd).compile(thought(), trainset=examples(4), teacher=thought())
    with pytest.raises(ValueError, match="metric: got 5, expected a function of an example"):
        GReaTer(5)  # type: ignore[arg-type]


@pytest.mark.usefixtures("context")
def test_bad_rows() -> None:
    rows = examples(6)
    optimizer = GReaTer(odd, config=SEARCH)
    unlabelled = [*rows[:3], dspy.Example(question="So?").with_inputs("question")]
    with pytest.raises(ValueError, match="row 3 of trainset has no value of 'answer'"):
        optimizer.compile(thought(), trainset=unlabelled, valset=rows[4:])
    long = [*rows[:3], dspy.Example(question="So?", answer="a\nb").with_inputs("question")]
    with pytest.raises(ValueError, match=r"ends an answer at .*the line's end"):
        optimizer.compile(thought(), trainset=long, valset=rows[4:])
    with pytest.raises(ValueError, match="trainset: 4 of its 4 rows are in the valset"):
        optimizer.compile(thought(), trainset=rows[:4], valset=rows[:4])
    with pytest.raises(ValueError, match="with_inputs"):
        optimizer.compile(thought(), trainset=[dspy.Example(question="So?", answer="a")] * 4)


class Twice(dspy.ChatAdapter):
    """Writes the instructions twice."""

    def format_task_description(self, signature: Any) -> str:
        return f"{signature.instructions}\n{signature.instructions}"


class Loud(dspy.ChatAdapter):
    """Changes the instructions."""

    def format_task_description(self, signature: Any) -> str:
        return f"Do: {signature.instructions}".replace("step", "stage")


class Nameless(dspy.ChatAdapter):
    """Has the answer alone, nothing before it."""

    def format_assistant_message_content(
        self, signature: Any, outputs: dict[str, Any], missing_field_message: Any = None
    ) -> str:
        return "".join(outputs.values())


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (dspy.JSONAdapter(), "got JSONAdapter, which has answers escaped"),
        (dspy.TwoStepAdapter(dspy.LM("openai/none")), "got TwoStepAdapter"),
        (Nameless(), "does not write each output field once"),
        (Twice(), "stand 2 times in what is sent for row 0 of trainset"),
        (Loud(), "changes the instructions"),
    ],
)
def test_bad_adapters(asked: Any, adapter: Any, message: str) -> None:
    with dspy.context(lm=asked, adapter=adapter), pytest.raises(ValueError, match=message):
        compiled(thought())


def test_bad_models(attentive: LM) -> None:
    with dspy.context(lm=dspy.LM("openai/none")), pytest.raises(ValueError, match="the weights"):
        compiled(thought())
    with dspy.context(lm=None), pytest.raises(ValueError, match="no LM is configured"):
        compiled(thought(), model=attentive)
    with pytest.raises(ValueError, match="tensor_parallel: got True, but an LM of DSPy"):
        local_lm(attentive, config={"tensor_parallel": True})
    plain = tiny_tokenizer("llama3", chat_template=False)
    with pytest.raises(ValueError, match="has no chat template, and DSPy sends conversations"):
        local_lm((tiny_model("llama", len(plain)), plain))
    thinking = copy.deepcopy(attentive.tokenizer)
    thinking.chat_template = LLAMA3_TEMPLATE.replace(
        "assistant<|end_header_id|>\n\n' }}{% endif",
        "assistant<|end_header_id|>\n\n<think>' }}{% endif",
    )
    with (
        dspy.context(lm=local_lm((attentive.model, thinking)), adapter=Lenient()),
        pytest.raises(ValueError, match="thinks before it replies"),
    ):
        compiled(thought())


@pytest.mark.usefixtures("context")
def test_errors_of_metric_and_program_come_to_the_caller() -> None:
    def failing(example: Any, prediction: Any, trace: Any = None) -> int:
        raise KeyError(example.question)

    steps: list[Any] = []
    with pytest.raises(KeyError, match="Question"):
        compiled(thought(), metric=failing, on_step=steps.append)
    with pytest.raises(ValueError, match=r"judge: got \[nan\], expected 1 finite numbers"):
        compiled(thought(), metric=lambda *given: float("nan"), on_step=steps.append)
    long = dspy.Example(question="word " * 2100).with_inputs("question")
    optimizer = GReaTer(odd, config=SEARCH, on_step=steps.append)
    with pytest.raises(dspy.ContextWindowExceededError):
        optimizer.compile(thought(), trainset=examples(4), valset=[long])
    assert steps == []


@pytest.mark.usefixtures("context")
def test_what_was_found_is_kept_where_judging_it_fails() -> None:
    steps: list[Any] = []
    scored: list[Any] = []

    def metric(example: Any, prediction: Any, trace: Any = None) -> int:
        if steps:
            raise OSError("no metric")
        scored.append(example)
        return 1

    optimizer = GReaTer(metric, config=SEARCH, on_step=steps.append)
    rows = examples(8)
    with pytest.raises(OSError, match="no metric") as caught:
        optimizer.compile(thought(), trainset=rows[:4], valset=rows[4:])
    assert len(steps) == 2
    assert len(scored) == 4  # the student's, on each row once
    assert optimizer.report == {}
    assert len(optimizer.result.prompts) > 1
    assert {prompt.judged for prompt in optimizer.result.prompts} == {None}
    assert any(optimizer.result.best.prompt in note for note in caught.value.__notes__)
    with pytest.raises(ValueError, match="teacher"):
        optimizer.compile(thought(), trainset=rows, teacher=thought())
    assert optimizer.result is None


def test_replies_that_cannot_be_read_are_counted(
    asked: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The tiny model writes no header, which ends no evaluation, however many rows there are."""
    with dspy.context(lm=asked, adapter=InstructionLast(use_json_adapter_fallback=False)):
        better, optimizer = compiled(thought(), 4, 12, config={**SEARCH, "steps": 1})
    report = optimizer.report
    assert report["num_unread"] == report["initial_num_unread"] == report["num_val"] == 12
    assert report["score"] == report["initial_score"] == 0.0
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert better.predict.signature.instructions == PROMPT


@pytest.mark.usefixtures("context")
def test_what_a_metric_cannot_read_is_worth_nothing() -> None:
    """As to `dspy.Evaluate`, where an LM is asked for the metric."""

    def metric(example: Any, prediction: Any, trace: Any = None) -> float:
        if example.question.startswith("Question 8"):
            raise dspy.AdapterParseError("ChatAdapter", thought().predict.signature, "so")
        return 1.0

    rows = examples(8)
    optimizer = GReaTer(metric, config={**SEARCH, "steps": 0})
    optimizer.compile(thought(), trainset=rows[:4], valset=rows[4:])
    assert (optimizer.report["score"], optimizer.report["num_unread"]) == (75.0, 1)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("greater_fast.front_ends.dspy")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dspy", None)
    with pytest.raises(ImportError, match=r"pip install 'greater-fast\[dspy\]'"):
        importlib.import_module("greater_fast.front_ends.dspy")


# A model that is served.


class Server(ThreadingHTTPServer):
    """Completes chats as OpenAI's servers do, by an engine of ours."""

    def __init__(self, asked: Any) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.bodies = asked, list[Any]()
        self.num_more: int | None = 0  # tokens told of beside those read; None tells of none


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        body = {key: value for key, value in body.items() if key != "stream"}
        response = self.server.asked.engine.complete(lm15.request_from_openai_chat(body))
        message = {"role": "assistant", "content": response.text}
        choice = {"index": 0, "message": message, "finish_reason": response.finish_reason}
        told = {"id": "1", "object": "chat.completion", "model": "m", "choices": [choice]}
        if self.server.num_more is not None:
            number = response.usage.input_tokens + self.server.num_more
            told["usage"] = {"prompt_tokens": number, "completion_tokens": 1, "total_tokens": 1}
        payload = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""


@pytest.fixture
def server(asked: Any) -> Iterator[Server]:
    with Server(asked) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def served(server: Server) -> Iterator[Any]:
    place = f"http://127.0.0.1:{server.server_port}/v1"
    lm = dspy.LM("openai/tiny", api_base=place, api_key="local", temperature=0.0, max_tokens=LIMIT)
    with dspy.context(lm=lm, adapter=LenientLast()):
        yield lm
    lm.close()


def test_a_served_model_is_searched_with_by_its_weights(
    attentive: LM, server: Server, served: Any
) -> None:
    better, optimizer = compiled(thought(), model=attentive)
    assert server.bodies[0]["messages"][-1]["content"].endswith(PROMPT)
    assert [value for key, value in server.bodies[0].items() if "max" in key] == [1]
    assert len(server.bodies) == 1 + 6 * len(better.candidate_programs)
    assert optimizer.report["score"] >= optimizer.report["initial_score"]
    assert better.predict.signature.instructions == optimizer.report["prompt"]


def test_another_layout_at_the_server_is_refused(
    attentive: LM, server: Server, served: Any
) -> None:
    server.num_more = 1
    with pytest.raises(ValueError, match=r"reads \d+ tokens in a conversation that is \d+ tokens"):
        compiled(thought(), model=attentive)
    assert len(server.bodies) == 1


def test_what_a_server_does_otherwise_is_noted(attentive: LM, server: Server, served: Any) -> None:
    server.num_more = None
    config = {**SEARCH, "steps": 0}
    with dspy.context(lm=served.copy(temperature=None)):
        _, optimizer = compiled(thought(), 4, 2, model=attentive, config=config)
    notes = " ".join(optimizer.report["notes"])
    assert "does not say how many tokens it reads" in notes
    assert "at temperature None" in notes


# The example.


@pytest.fixture
def configured_for_a_while() -> Iterator[None]:
    """What a program configures for its process is put back."""
    level = logging.getLogger("dspy").level
    yield
    dspy.configure(lm=None, adapter=None)
    logging.getLogger("dspy").setLevel(level)


@pytest.mark.usefixtures("configured_for_a_while")
def test_the_example_runs(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "examples" / "dspy_program.py"
    spec = importlib.util.spec_from_file_location("dspy_program", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(str(model_folder), steps=1, num_train=4, num_val=3, max_tokens=6)
    told = capsys.readouterr().out
    found = re.search(r"^to   '(.+)'$", told, re.MULTILINE)
    assert f"loaded again: '{found[1]}'" in told
    assert "num_unread on validation rows: 3 -> 3" in told
