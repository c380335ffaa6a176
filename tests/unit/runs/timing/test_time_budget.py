"""The clock of a run: laps, what has room, and what is said."""

import math

import pytest

from greater_fast.ranks import Ranks
from greater_fast.runs.timing.estimate import Estimate, Finals
from greater_fast.runs.timing.time_budget import MARGIN, TimeBudget
from tests.threads import on_threads


class Clock:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_laps() -> None:
    clock = Clock(5.0)
    budget = TimeBudget(clock=clock)
    clock.now = 7.0
    assert budget.lap() == 2.0
    assert budget.lap() == 0.0
    clock.now = 10.0
    assert budget.lap() == 3.0


def test_room_is_counted_from_the_beginning_with_a_margin() -> None:
    clock = Clock(100.0)
    budget = TimeBudget(1.0, begun=90.0, clock=clock)  # ends at 150
    assert budget.has_room_for(50 / MARGIN - 1e-9)
    assert not budget.has_room_for(50 / MARGIN + 1e-9)
    clock.now = 151.0
    assert not budget.has_room_for(0.0)


def test_without_a_limit_there_is_room_for_everything() -> None:
    budget = TimeBudget(clock=Clock())
    assert budget.has_room_for(1e12)
    budget.begin_search()
    assert budget.for_finals == math.inf
    assert budget.notes(["everything"]) == ()
    assert budget.describe(Estimate(1, {"select": 1.0}, 0, Finals(1, 1.0, 1.0, 1, 1.0))) == ""


def test_the_first_rank_decides() -> None:
    def on(ranks: Ranks) -> list[bool]:
        budget = TimeBudget(1.0, 0.0, ranks, Clock(0.0 if ranks.is_first else 59.0))
        return [budget.has_room_for(s * (10 if ranks.is_first else 1)) for s in (4.0, 6.0)]

    assert on_threads(3, on) == [[True, False]] * 3


def test_what_is_said() -> None:
    clock = Clock(0.0)
    budget = TimeBudget(1.5, 0.0, clock=clock)
    estimate = Estimate(9, {"select": 10.0}, 2, Finals(1, 20.0, 0.0, 0, 0.0))
    assert budget.describe(estimate) == (
        "; minutes=1.5 leaves 1.5 min: 24 s for finals and test, 66 s for the search, which is "
        "time for 5 of these steps"
    )
    shares = budget.shares(estimate)
    assert shares is not None
    assert shares.to_dict() == {
        "minutes": 1.5,
        "left": 90.0,
        "finals": 24.0,
        "search": 66.0,
        "num_steps": 5,
        "least": 20.0,
        "can_be_kept": True,
    }
    assert budget.spent() is None
    always = (
        "minutes=1.5: how far a run comes in that time depends on the machine, and so does its "
        "result"
    )
    assert budget.notes([]) == (always,)
    clock.now = 10.0
    budget.begin_search()
    assert budget.for_finals == 40.0
    clock.now = 90.0 + 12.4
    at_first = budget.shares(estimate, from_first=True)
    assert at_first is not None
    assert (at_first.left, at_first.num_steps, at_first.can_be_kept) == (80.0, 4, True)
    assert str(budget.spent()).startswith("minutes=1.5 is over before the first score")
    assert budget.describe(estimate) == (
        "; minutes=1.5 cannot be kept: it leaves 0.0 s, and finals and test take about 20 s at "
        "least: allow more, or give fewer development and test rows"
    )
    assert budget.notes(["a", "b"]) == (
        always,
        "no time was left to evaluate a and b",
        "the run took 12 s more than minutes allows",
    )


def test_what_finals_may_take_stays_when_a_run_goes_on() -> None:
    """Half of the time from the first step on, in whatever sitting that was."""
    clock = Clock()
    first = TimeBudget(60, clock=clock)
    clock.now = 120.0
    first.begin_search()
    clock.now = 1800.0
    assert first.clock() == {"seconds": 1800.0, "search_begun": 120.0}
    for minutes, for_finals in ((60, 1740.0), (120, 3540.0)):
        second = TimeBudget(minutes, -1800.0 + clock.now, clock=clock)
        second.begin_search(first.clock()["search_begun"])
        assert second.for_finals == for_finals


@pytest.mark.parametrize("minutes", [0.0, 2.0])
def test_a_budget_begins_when_it_is_made(minutes: float) -> None:
    clock = Clock(1000.0)
    budget = TimeBudget(minutes, clock=clock)
    clock.now = 1060.0
    assert budget.has_room_for(60 / MARGIN) is (minutes == 2.0)
