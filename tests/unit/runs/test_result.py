"""The sentence that a run ends with."""

import dataclasses
import math
import re
from pathlib import Path

import pytest

from greater_fast.examples.extractor import make_extractor
from greater_fast.runs.evaluation import Evaluation, RowRecord, compare
from greater_fast.runs.result import PromptResult, Report, Result, best_of, gap_notes

EXTRACTOR = make_extractor("So it is")


def evaluation(correct: str) -> Evaluation:
    rows = [RowRecord(f"q{n}", "g", "p", c == "1", "r") for n, c in enumerate(correct)]
    return Evaluation("p", tuple(rows))


def graded(values: list[float]) -> Evaluation:
    rows = [RowRecord(f"q{n}", "g", "p", v >= 0.5, "r", metric=v) for n, v in enumerate(values)]
    return Evaluation("p", tuple(rows), "mine")


def prompt(ids: tuple[int, ...], dev: str | None = None, test: str | None = None) -> PromptResult:
    return PromptResult(
        prompt=f"prompt {ids}",
        prompt_ids=ids,
        objective=0.5,
        train_error_rate=0.5,
        dev=None if dev is None else evaluation(dev),
        test=None if test is None else evaluation(test),
    )


def summary(best: PromptResult, baseline: PromptResult, *others: PromptResult) -> str:
    result = Result(
        best=best,
        baseline=baseline,
        finalists=tuple(dict.fromkeys((best, baseline, *others))),
        steps=(),
        stopped="all steps done",
        extractor="",
        notes=(),
        run_dir=Path("run"),
        dev_comparison=compare(best.dev, baseline.dev) if best.dev and baseline.dev else None,
        test_comparison=compare(best.test, baseline.test) if best.test and baseline.test else None,
    )
    assert result.to_dict()["summary"] == result.summary
    return result.summary


# 96 rows: 59 right with the new prompt, 44 with the initial one, 36 with both
NEW_ROWS = "1" * 36 + "1" * 23 + "0" * 8 + "0" * 29
OLD_ROWS = "1" * 36 + "0" * 23 + "1" * 8 + "0" * 29


def test_a_gain_on_rows_never_seen() -> None:
    assert summary(prompt((1,), "11", NEW_ROWS), prompt((2,), "01", OLD_ROWS)) == (
        "On 96 rows never seen, the new prompt is right on 61.5% [51.5, 70.6], the initial one on "
        "45.8% [36.2, 55.8]: +15.6 points [+4.4, +26.2], p = 0.011."
    )


def test_a_gain_that_chance_explains() -> None:
    text = summary(prompt((1,), "11", "1110"), prompt((2,), "01", "1100"))
    assert text.endswith("p = 1.000, which may be chance.")
    assert ": +25.0 points [" in text


def test_a_tiny_p() -> None:
    text = summary(prompt((1,), "11", "1" * 20), prompt((2,), "01", "0" * 20))
    assert text.endswith(": +100.0 points [+77.2, +100.0], p < 0.001.")


@pytest.mark.parametrize(("old", "points"), [("1110", "−25.0"), ("0011", "0.0")])
def test_no_gain_on_rows_never_seen(old: str, points: str) -> None:
    text = summary(prompt((1,), "11", "1100"), prompt((2,), "01", old))
    assert f": nothing was gained ({points} points [" in text


def test_development_rows_alone_are_called_so() -> None:
    text = summary(prompt((1,), "1110"), prompt((2,), "0010"))
    assert text.startswith(
        "On the 4 development rows, by which it was chosen, the new prompt is right on 75.0% ["
    )
    assert text.endswith("which may be chance; on rows never seen, neither was tried.")
    text = summary(prompt((1,), "1110"), prompt((2,), "0010", "1100"))
    assert text.endswith("on rows never seen, the new one was not tried.")


def test_a_prompt_that_a_judge_chose_is_called_so() -> None:
    best, initial = prompt((1,), "1110"), prompt((2,), "0010")
    best, initial = (dataclasses.replace(p, judged=j) for p, j in ((best, 2.0), (initial, 1.5)))
    text = summary(best, initial, dataclasses.replace(prompt((3,)), judged=0.0))
    assert text.startswith("On the 4 development rows, while a judge chose it, the new prompt is ")
    assert summary(initial, initial, dataclasses.replace(prompt((3,)), judged=0.0)).startswith(
        "Nothing was gained: the initial prompt is still the best; on 4 development rows, it is"
    )


def test_the_best_is_chosen_by_the_judge_or_else_by_development_rows() -> None:
    """Of equals the initial one, else the first: they stand in the order of their objective."""
    first, second, initial = prompt((1,), "1100"), prompt((2,), "0011"), prompt((3,), "0001")
    assert best_of([first, second, initial], (3,)) is first
    equal = prompt((3,), "1010")
    assert best_of([first, second, equal], (3,)) is equal
    for values, place in (((0.0, 1.0, 0.5), 1), ((0.0, 1.0, 1.0), 2), ((-2.0, -2.0, -3.0), 0)):
        judged = [
            dataclasses.replace(p, judged=value)
            for p, value in zip((first, second, initial), values, strict=True)
        ]
        assert best_of(judged, (3,)) is judged[place]
        unmeasured = [dataclasses.replace(p, dev=None) for p in judged]
        assert best_of(unmeasured, (3,)) is unmeasured[place]
    assert best_of([prompt((1,)), prompt((3,))], (3,)).prompt_ids == (1,)


def test_by_a_metric_the_highest_mean_is_the_best() -> None:
    """None of its values counts as right here: the mean decides, not how many are."""
    low, high, initial = (
        dataclasses.replace(prompt((number,)), dev=graded(values))
        for number, values in ((1, [0.5, 0.0]), (2, [0.45, 0.4]), (3, [0.0, 0.0]))
    )
    assert best_of([low, high, initial], (3,)) is high


def test_means_that_differ_in_their_last_bits_are_equal() -> None:
    spread, gathered = [1 / 3] * 7, [1.0, 1.0, 1 / 3, 0.0, 0.0, 0.0, 0.0]
    assert math.fsum(spread) < math.fsum(gathered)
    found, initial = (
        dataclasses.replace(prompt((number,)), dev=graded(values))
        for number, values in ((1, gathered), (3, spread))
    )
    assert best_of([found, initial], (3,)) is initial


def test_a_report_shows_its_figures_and_not_its_rows() -> None:
    one, other = prompt((1,), "1110").dev, prompt((2,), "0010").dev
    assert one is not None
    shown = repr(Report(one, other, None, "So {answer}.", ()))
    assert re.fullmatch(r"is right on 75.0% \[.*\]: .+\nis right on 25.0% \[.*\]: .+", shown)
    assert "RowRecord" not in repr(one)
    assert len(repr(Report(one, None, None, "So {answer}.", ())).splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "right"), [(0.3, 7), (1.0, 0), (0.75, None), (0.8, None), (0.85, None)]
)
def test_two_measures_that_part_are_told(error: float, right: int | None) -> None:
    """Two of ten rows are right as evaluation reads them."""
    plain = dataclasses.replace(
        prompt((1,)), train=evaluation("1100000000"), train_error_rate=error
    )
    for text, advice in (("So it is", "closes the answer"), ("So: '{answer}'.", "ends in what")):
        notes = gap_notes(plain, make_extractor(text))
        assert len(notes) == (right is not None)
        for note in notes:
            assert f"2 of 10 training rows right as evaluation reads them, and {right} tok" in note
            assert advice in note
    assert gap_notes(dataclasses.replace(plain, train=graded([0.0] * 10)), EXTRACTOR) == ()


def test_nothing_better_was_found() -> None:
    same = prompt((1,), "11", "1100")
    assert summary(same, same, prompt((2,), "01")) == (
        "Nothing was gained: the initial prompt is still the best; on 4 rows never seen, it is "
        "right on 50.0% [15.0, 85.0]."
    )
    same = prompt((1,), "11")
    text = summary(same, same, prompt((2,)))
    assert text.startswith("Nothing was gained so far: the initial prompt is still the best; on 2 ")
    assert "2 development rows, it is right on 100.0%" in text


@pytest.mark.parametrize(("new", "old"), [(None, None), ("11", None)])
def test_what_was_not_measured_is_unknown(new: str | None, old: str | None) -> None:
    text = summary(prompt((1,), new), prompt((2,), old))
    assert text.startswith("Whether anything was gained is unknown: the run ended before")


def test_a_metric_is_a_score() -> None:
    best = dataclasses.replace(prompt((1,)), dev=graded([0.75, 0.5]), test=graded([0.5, 0.75]))
    initial = dataclasses.replace(prompt((2,)), dev=graded([0.5, 0.5]), test=graded([0.25, 0.5]))
    text = summary(best, initial)
    assert text.startswith("On 2 rows never seen, the new prompt scores 62.5% [")
    assert "], the initial one 37.5% [" in text
    assert ": +25.0 points [" in text
    assert "it scores 37.5% [" in summary(initial, initial)
