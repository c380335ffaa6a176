"""The user's metric on the user's program decides."""

import logging
from typing import Any

import dspy
import pytest

from greater_fast.front_ends.dspy import GReaTer, InstructionLast, teleprompter
from tests.front_ends.dspy_programs.programs import SEARCH, compiled, examples, odd, thought
from tests.tiny import PROMPT

pytestmark = pytest.mark.front_ends


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


@pytest.mark.usefixtures("context")
def test_rows_without_labels_can_judge() -> None:
    rows = examples(8)
    unlabelled = [row.without("answer").with_inputs("question") for row in rows[4:]]
    optimizer = GReaTer(odd, config=SEARCH)
    optimizer.compile(thought(), trainset=rows[:4], valset=unlabelled)
    assert optimizer.report["forced_accuracy"] is None
    assert optimizer.report["num_val"] == 4


@pytest.mark.usefixtures("context")
def test_rows_that_the_search_could_not_take_can_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure that needs them laid out is left out, with a note, and nothing else."""
    laid_out, asked = teleprompter.lay_out, []

    def lay_out(*given: Any) -> Any:
        asked.append(given)
        if len(asked) == 2:
            raise ValueError("row 3 has no room")
        return laid_out(*given)

    monkeypatch.setattr(teleprompter, "lay_out", lay_out)
    optimizer = GReaTer(odd, config=SEARCH)
    rows = examples(8)
    optimizer.compile(thought(), trainset=rows[:4], valset=rows[4:])
    assert optimizer.report["forced_accuracy"] is None
    assert optimizer.report["num_val"] == 4
    assert "forced_accuracy: not measured: row 3 has no room" in optimizer.report["notes"]


@pytest.mark.usefixtures("context")
def test_errors_of_metric_and_program_come_to_the_caller() -> None:
    def failing(example: Any, prediction: Any, trace: Any = None) -> int:
        raise KeyError(example.question)

    steps: list[Any] = []
    with pytest.raises(KeyError, match="Question"):
        compiled(thought(), metric=failing, on_step=steps.append)
    with pytest.raises(ValueError, match="metric: got 'yes' of a row, expected True, False or a"):
        compiled(thought(), metric=lambda *given: "yes", on_step=steps.append)
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
