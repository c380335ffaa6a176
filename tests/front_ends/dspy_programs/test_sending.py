"""What is searched is what the program sends, in the adapter's words."""

import asyncio
import copy
import re
from collections.abc import Collection
from typing import Any

import dspy
import pytest

from greater_fast.front_ends.dspy import GReaTer, InstructionLast, local_lm
from greater_fast.front_ends.dspy.sending import MARK, Target
from greater_fast.model.lm import LM
from tests.front_ends.dspy_programs.programs import (
    LIMIT,
    SEARCH,
    Lenient,
    LenientLast,
    Recording,
    compiled,
    examples,
    thought,
)
from tests.tiny import PROMPT

pytestmark = pytest.mark.front_ends


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
    for number, found in enumerate(target.sent(rows), 1):
        assert found is not None
        own, marked = found
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
    for row, found in zip(rows, target.sent(rows), strict=True):
        assert found is not None
        own, marked = found
        assert row.question in own.messages[-1].text
        assert own.messages[-1].text.replace(PROMPT, MARK) == marked.messages[-1].text


class Hinted(dspy.Module):
    """Asks for a hint first, and cannot read some of these."""

    def __init__(self, unread: Collection[str]) -> None:
        super().__init__()
        self.unread = unread
        self.reply = dspy.Predict(dspy.Signature("question, hint -> answer", PROMPT))

    def forward(self, question: str) -> Any:
        if question in self.unread:
            signature = self.reply.signature
            raise dspy.AdapterParseError("Lenient", signature, "no header")
        return self.reply(question=question, hint="Look.")


@pytest.mark.usefixtures("context")
def test_a_reply_before_the_predictor_that_cannot_be_read_ends_nothing() -> None:
    rows = examples(12)
    unread = [row.question for row in (*rows[:3], rows[8])]
    better, optimizer = compiled(Hinted(unread))
    assert better.reply.signature.instructions == optimizer.report["prompt"]
    notes = "; ".join(optimizer.report["notes"])
    left_out = re.search(r"trainset: (\d) rows are left out, for a reply before reply could", notes)
    assert left_out is not None  # four of the first six are searched on, whichever they are
    assert 4 - int(left_out[1]) == optimizer.report["num_train"] < SEARCH["num_train"]
    assert "forced_accuracy: not measured: a reply before reply could not be read on 1" in notes
    assert optimizer.report["initial_num_unread"] >= 1
    with pytest.raises(ValueError, match="trainset: on each of its 4 rows a reply before reply"):
        compiled(Hinted([row.question for row in rows]))


@pytest.mark.usefixtures("context")
def test_inputs_that_dspy_fills_in_need_no_value() -> None:
    class Filled(dspy.Signature):
        """Think step by step."""

        question: str = dspy.InputField()
        style: str = dspy.InputField(default="short")
        context: str | None = dspy.InputField()
        answer: str = dspy.OutputField()

    target, rows = Target.of(dspy.Predict(Filled), None, None), examples(2)
    for row, found in zip(rows, target.sent(rows), strict=True):
        assert found is not None
        assert row.question in found.own.messages[-1].text
        assert "short" in found.own.messages[-1].text


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
