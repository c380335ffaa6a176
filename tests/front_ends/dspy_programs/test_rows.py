"""What is sent as rows: where a reasoning ends, and how an answer is asked for."""

import re
from collections import Counter
from typing import Any

import dspy
import pytest

from greater_fast.front_ends.dspy import GReaTer, InstructionLast
from greater_fast.front_ends.dspy.rows import Reply
from greater_fast.front_ends.dspy.sending import Target
from greater_fast.model.lm import LM
from tests.front_ends.dspy_programs.programs import (
    HEADER,
    SEARCH,
    Lenient,
    LenientLast,
    Recording,
    compiled,
    examples,
    odd,
    sent,
    thought,
)
from tests.tiny import PROMPT

pytestmark = pytest.mark.front_ends


class Marked(Lenient):
    """Names the answer by a word that the tiny model writes by itself."""

    mark = ""

    def format_assistant_message_content(
        self, signature: Any, outputs: dict[str, Any], missing_field_message: Any = None
    ) -> str:
        return f"{outputs['reasoning']}{self.mark}\n{outputs['answer']}\n"


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
    assert whole.endswith(f"So.{header}18{closing}{extractor.behind}")


@pytest.mark.parametrize(
    ("kind", "value", "written"),
    [
        ("str", " yes ", "yes"),
        ("int", 24, "24"),
        ("float", 2.5, "2.5"),
        ("bool", True, "True"),
        ("Literal['a', 'b']", "b", "b"),
        ("Literal[1, 2]", 2, "2"),
        ("int", 24.0, "24"),  # of a column with a value missing
        ("int", "24.0", "24"),
        ("float", 2, "2.0"),
        ("bool", "true", "True"),
    ],
)
def test_gold_answers_are_written_as_dspy_writes_them(kind: str, value: Any, written: str) -> None:
    reply = reply_of(thought(fields=f"question -> answer: {kind}"), None)
    row = dspy.Example(question="How many?", answer=value).with_inputs("question")
    assert reply.example(row, "row 0").answer == written
    parsed = dspy.ChatAdapter().parse(
        reply.target.predictor.signature, f"[[ ## reasoning ## ]]\nSo.{HEADER}{written}\n\n"
    )
    typed = {
        "str": str.strip,
        "int": lambda v: int(float(v)),
        "bool": lambda v: v in (True, "true"),
    }
    assert parsed["answer"] == typed.get(kind, lambda v: v)(value)


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
