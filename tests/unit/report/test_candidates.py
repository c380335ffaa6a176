import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greater_fast.report.candidates import (
    Outcome,
    in_words,
    outcomes,
    rank_correlation,
    why_none,
)
from greater_fast.report.run_view import read_run_view
from tests.unit.report.made_up import write_run


def slow_correlation(first, second):
    """Pearson's correlation of ranks that are counted: smaller ones, and half of the equals."""

    def ranks(values):
        return [sum(w < v for w in values) + (values.count(v) + 1) / 2 for v in values]

    a, b = ranks(first), ranks(second)
    mean = (len(a) + 1) / 2
    up = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    down = math.sqrt(sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b))
    return up / down if down else None


@settings(deadline=None)  # the first call imports
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=20))
def test_the_rank_correlation_is_that_of_its_definition(pairs):
    first, second = map(list, zip(*pairs, strict=True))
    expected = slow_correlation(first, second)
    found = rank_correlation(first, second)
    assert found == (expected if expected is None else pytest.approx(expected, abs=1e-12))


def test_too_few_or_equal_values_have_none():
    assert rank_correlation([1], [1]) is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([[1, 2, 3]] * 6, "the score ranks them: a lower score goes with a lower objective"),
        ([[3, 2, 1]] * 6, "the score ranks them the wrong way round"),
        ([[1, 2], [2, 1]] * 6, "no ranking shows"),
        ([[1, 2, 3]] * 5, "15 candidates ran to the end, in 5 steps more than one of which"),
        ([[1, 1]] * 9, "in 0 steps more than one of which came out differently: too few"),
        ([[1]], "1 candidate ran to the end, in 0 steps"),
    ],
)
def test_the_correlation_is_said_in_words(steps, expected):
    tried = [
        Outcome(number, float(n), float(change), False)
        for number, changes in enumerate(steps)
        for n, change in enumerate(changes)
    ]
    assert expected in in_words(tried)


@pytest.mark.parametrize(
    ("trial", "has_result", "expected"),
    [
        ({"objective": None}, True, "No candidate ran to the end"),
        ({"score": None}, True, "Candidates were drawn without a score"),
        ({}, False, "What the prompt came to before is not known yet"),
    ],
)
def test_why_nothing_is_ranked_is_said(tmp_path, trial, has_result, expected):
    run = write_run(tmp_path / "run", num_steps=1)
    (step,) = map(json.loads, (run / "steps.jsonl").read_text().splitlines())
    step |= {"changed": True, "trials": [{**own, **trial} for own in step["trials"]]}
    (run / "steps.jsonl").write_text(json.dumps(step) + "\n")
    if not has_result:
        (run / "result.json").unlink()
    view = read_run_view(run, 0)
    assert outcomes(view) == []
    assert expected in why_none(view)


def test_steps_that_differ_rank_nothing_within_them():
    """Steps at good places have low scores and low objectives; in each the order is the reverse."""
    tried = [
        Outcome(step, level + score, level - score / 2, False)
        for step, level in enumerate([-2.0, 0.0] * 6)
        for score in (0.0, 0.1, 0.2)
    ]
    assert rank_correlation([o.score for o in tried], [o.change for o in tried]) > 0.5
    assert "the score ranks them the wrong way round (rank correlation −1.00" in in_words(tried)


def test_a_change_is_taken_from_the_incumbent_before_the_step(tmp_path):
    view = read_run_view(write_run(tmp_path / "run", num_steps=6), 0)
    before = [0.8, *(0.8 - 0.004 * n for n in range(5))]  # the initial one's, then each step's
    expected = [
        (trial.score, pytest.approx(trial.objective - before[step.number - 1]))
        for step in view.steps
        for trial in step.trials
        if trial.objective is not None
    ]
    found = outcomes(view)
    kept = [o for o in found if not o.is_accepted]
    assert len(found) == len(expected)
    assert sum(o.is_accepted for o in found) == len(view.accepted) == 3
    assert kept
    # A step without a change has the incumbent's own objective, whatever was logged before it.
    unchanged = {n for n, step in enumerate(view.steps) if not step.changed}
    of_step = [n for n, s in enumerate(view.steps) for t in s.trials if t.objective is not None]
    for number, outcome, wanted in zip(of_step, found, expected, strict=True):
        if number not in unchanged:
            assert (outcome.score, outcome.change) == wanted
