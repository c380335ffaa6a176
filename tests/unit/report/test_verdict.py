import json

import pytest

from greater_fast.report.run_view import read_run_view
from greater_fast.report.verdict import cautions, ending, verdict
from tests.unit.report.made_up import change, compared, write_run


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("test", "dev", "headline", "tone"),
    [
        ((0.1, 0.01), (0.1, 0.5), "The new prompt is better", "good"),
        ((0.1, 0.05), (0.1, 0.001), "A gain that may be chance", "open"),
        ((0.0, 1.0), (0.1, 0.001), "Nothing was gained", "calm"),
        ((-0.1, 0.3), (0.1, 0.001), "Nothing was gained", "calm"),
        ((-0.1, 0.01), (0.1, 0.001), "The new prompt is worse", "bad"),
        (None, (0.1, 0.001), "A gain on the rows it was chosen by, not tried on others", "open"),
        (None, (0.1, 0.05), "No gain is shown on the rows it was chosen by", "calm"),
        (None, (0.1, 1.0), "No gain is shown on the rows it was chosen by", "calm"),
        (None, (0.1, None), "No gain is shown on the rows it was chosen by", "calm"),
        (None, (-0.1, 0.01), "The new prompt is worse", "bad"),
        (None, (0.0, 1.0), "Nothing was gained", "calm"),
        (None, None, "Not known yet", "open"),
    ],
)
def test_the_test_rows_decide_where_there_are_some(run, test, dev, headline, tone):
    pairs = {"test_comparison": test, "dev_comparison": dev}
    change(run / "result.json", **{k: compared(*v) if v else None for k, v in pairs.items()})
    found = verdict(read_run_view(run, 0))
    assert (found.headline, found.tone) == (headline, tone)
    assert found.split == ("test" if test else "dev" if dev else None)
    assert found.is_proven == (bool(test) and tone in ("good", "bad"))


def test_rows_that_were_tested_on_before_prove_nothing(run):
    """The search went on because of what they said, or might have."""
    pairs = {"test_comparison": compared(0.1, 0.01), "test_seen_after": 4}
    change(run / "result.json", **pairs)
    found = verdict(read_run_view(run, 0))
    assert found.headline == "A gain on rows that were tested on before"
    assert (found.tone, found.is_proven) == ("open", False)


def test_what_was_noted_of_the_outcome_is_told_beside_it(run):
    change(run / "run.json", notes=["the extractor was derived"])
    change(run / "result.json", notes=["the extractor was derived", "9 reasonings were cut off"])
    assert cautions(read_run_view(run, 0)) == ["9 reasonings were cut off"]
    (run / "result.json").unlink()
    assert cautions(read_run_view(run, 0)) == []


def test_a_prompt_that_stayed_gained_nothing(tmp_path):
    found = verdict(read_run_view(write_run(tmp_path / "run", changes=False), 0))
    assert (found.headline, found.tone) == ("Nothing was gained", "calm")


def test_a_finalist_that_was_not_measured_leaves_it_open(tmp_path):
    run = write_run(tmp_path / "run", changes=False)
    best = json.loads((run / "result.json").read_text())["best"]
    other = {**best, "prompt": "Other", "prompt_ids": [9], "dev": None, "test": None}
    change(run / "result.json", finalists=[best, other])
    assert verdict(read_run_view(run, 0)).headline == "Nothing was gained so far"


def test_prompts_are_the_same_by_their_ids_as_in_the_summary(run):
    """One text may be that of two prompts; without ids, as older runs are, texts decide."""
    values = json.loads((run / "result.json").read_text())
    for new, old, is_same in (([1], [1], True), ([1], [2], False), (None, [2], True)):
        best = {**values["best"], "prompt": "Think.", "prompt_ids": new}
        initial = {**values["baseline"], "prompt": "Think.", "prompt_ids": old}
        change(run / "result.json", best=best, baseline=initial)
        view = read_run_view(run, 0)
        assert view.is_same == is_same
        assert (verdict(view).headline == "Nothing was gained") == is_same


@pytest.mark.parametrize("stopped", ["all steps done", "a whole sweep without a change", ...])
def test_a_run_that_ended_as_planned_has_no_other_ending(run, stopped):
    change(run / "result.json", stopped=stopped)
    assert ending(read_run_view(run, 0)) is None


@pytest.mark.parametrize("stopped", ["interrupted", "out of time", "failed: MemoryError: no"])
def test_a_run_that_ended_early_says_how(run, stopped):
    change(run / "result.json", stopped=stopped)
    assert ending(read_run_view(run, 0)) == f"The run ended early, after 4 of 4 steps: {stopped}."
