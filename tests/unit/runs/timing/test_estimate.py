"""What is said of the hours: their sum, and what fewer steps, rows or tokens would save."""

import math

import pytest

from greater_fast.config import Config
from greater_fast.runs.timing.estimate import Estimate, Finals, duration, savings

CONFIG = Config(steps=100, num_train=50, shortlist_size=3, max_new_tokens=100, num_finalists=9)
FINALS = Finals(num_finalists=10, dev=60.0, train=30.0, num_tests=2, test=120.0)
STEP = {"propose": 4.0, "gradient": 20.0, "select": 60.0, "else": 6.0}
MEASURED = Estimate(90, STEP, 4, FINALS)


def test_seconds_are_those_of_all_parts() -> None:
    assert FINALS.seconds == 10 * 60 + 30 + 2 * 120
    assert MEASURED.step_seconds == 90
    assert MEASURED.seconds == 90 * 90 + 870


@pytest.mark.parametrize(
    ("seconds", "for_finals", "steps"),
    [
        (0, math.inf, 0),
        (870, math.inf, 0),
        (959, math.inf, 0),
        (960, math.inf, 1),
        (870 + 90 * 5 + 1, math.inf, 5),
        (870 + 90 * 5 + 1, 870 - 90, 6),
        (1e6, 0, 90),
    ],
)
def test_steps_within_a_time(seconds: float, for_finals: float, steps: int) -> None:
    assert MEASURED.steps_within(seconds, for_finals) == steps


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(math.inf, 870), (871, 870), (500, 500), (361, 361), (359, 360), (0, 360), (-9, 360)],
)
def test_finals_within_a_time_compare_two_prompts_at_least(seconds: float, expected: float) -> None:
    assert FINALS.within(seconds) == expected
    assert Finals(1, 60.0, 30.0, 1, 120.0).within(0.0) == 180


def test_steps_that_take_no_time() -> None:
    assert Estimate(7, {}, 0, FINALS).steps_within(871, 871) == 7


def test_savings_are_in_proportion() -> None:
    """By hand: a quarter of the reasoning's tokens lies behind the 50th."""
    saved = savings(MEASURED, CONFIG, [20, 100, 80])
    assert saved == pytest.approx(
        {
            "steps=50": 50 * 90,
            "num_train=25": (90 * 80 + 30) / 2,
            "max_new_tokens=50": (90 * 80 + 870) * 80 / 200,
            "shortlist_size=2": 90 * 60 / 3,
        }
    )
    assert list(saved.values()) == sorted(saved.values(), reverse=True)


def test_what_saves_little_or_nothing_is_not_named() -> None:
    least = Config(steps=1, num_train=2, shortlist_size=1, max_new_tokens=1, num_finalists=1)
    one = Estimate(1, STEP, 0, Finals(2, 1.0, 1.0, 2, 1.0))
    assert savings(one, least, [1, 1]) == {}
    assert savings(one, least, [0, 0]) == {}
    long_finals = Estimate(1, STEP, 0, Finals(10, 500.0, 1.0, 2, 1.0))
    assert list(savings(long_finals, CONFIG, [5])) == ["num_finalists=4"]
    assert savings(long_finals, CONFIG, [5])["num_finalists=4"] == 5 * 500.0


def test_steps_that_are_done_save_nothing_any_more() -> None:
    late = Estimate(20, STEP, 4, Finals(1, 1.0, 1.0, 0, 0.0))
    assert savings(late, CONFIG, [10])["steps=50"] == 20 * 90


def test_the_line() -> None:
    estimate = Estimate(90, STEP, 4, FINALS, {"steps=50": 4500.0, "num_train=25": 3615.0})
    assert estimate.describe() == (
        "about 2.5 h at most: 90 steps of 1.5 min (as the last 3 took), 14 min for finals and "
        "test; less, at most by so much each, with steps=50 (-75 min), num_train=25 (-60 min)"
    )
    assert Estimate(1, STEP, 0, Finals(1, 9.0, 1.0, 0, 0.0)).describe() == (
        "about 1.7 min at most: 1 step of 1.5 min (guessed from the score of the initial prompt), "
        "10 s for finals"
    )
    for number in (1, 2):
        assert "(as the last one took)" in Estimate(5, STEP, number, FINALS).describe()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (1.84, "1.8 s"),
        (9.949, "9.9 s"),
        (9.951, "10 s"),
        (89.9, "90 s"),
        (90.0, "1.5 min"),
        (600.0, "10 min"),
        (5399.0, "90 min"),
        (5400.0, "1.5 h"),
        (3600.0 * 48, "48 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
