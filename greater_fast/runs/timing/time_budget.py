"""A run that ends in time: what it may take, and whether something still fits into it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from greater_fast.ranks import ALONE, Ranks
from greater_fast.runs.timing.estimate import Estimate, duration

OUT_OF_TIME = "out of time"
MARGIN = 1.2  # what is to come may take so many times as long as it is thought to
_FOR_FINALS = 0.5  # of the time that the search begins with, or there would be none for it


@dataclass(frozen=True, slots=True)
class Shares:
    """What a limit of minutes leaves from some moment on, in seconds, and for what.

    `finals` are kept for finals and test, with the margin, and `search` is what they leave: time
    for `num_steps`. `least` is what finals and test take at least.
    """

    minutes: float
    left: float
    finals: float
    search: float
    num_steps: int
    least: float

    @property
    def can_be_kept(self) -> bool:
        """Whether the run is thought to end in time."""
        return self.least <= self.left

    def describe(self) -> str:
        """The shares in one line, or that they do not come out."""
        if not self.can_be_kept:
            return (
                f"minutes={self.minutes:g} cannot be kept: it leaves {duration(self.left)}, and "
                f"finals and test take about {duration(self.least)} at least: allow more, or give "
                "fewer development and test rows"
            )
        return (
            f"minutes={self.minutes:g} leaves {duration(self.left)}: {duration(self.finals)} for "
            f"finals and test, {duration(self.search)} for the search, which is time for "
            f"{self.num_steps} of these steps"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "can_be_kept": self.can_be_kept}


class TimeBudget:
    """A limit of `minutes` from `begun` on, None for none; `clock` tells seconds, as `begun` is.

    Of several ranks the first one's clock decides: all ask for the same things in the same order.
    """

    def __init__(
        self,
        minutes: float | None = None,
        begun: float | None = None,
        ranks: Ranks = ALONE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._ranks, self.minutes = clock, ranks, minutes
        self._begun = self._lap_begun = clock() if begun is None else begun
        self.for_finals = self._for_search = math.inf
        self._search_begun: float | None = None

    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._begun

    def lap(self) -> float:
        """Seconds since this was last asked."""
        before, self._lap_begun = self._lap_begun, self._clock()
        return self._lap_begun - before

    def begin_search(self, before: float | None = None) -> None:
        """Set what finals and test may take of the time that is left now: `for_finals`, seconds.

        `before` is when the search of an earlier sitting began, on the clock that it wrote down.
        """
        self._search_begun = self.elapsed() if before is None else before
        if self.minutes is not None:
            self._for_search = 60 * self.minutes - self._search_begun
            self.for_finals = _FOR_FINALS * self._for_search

    def clock(self) -> dict[str, float]:
        """What another sitting goes on from: seconds until now, and when the search began."""
        begun = {} if self._search_begun is None else {"search_begun": self._search_begun}
        return {"seconds": self.elapsed(), **begun}

    def has_room_for(self, seconds: float) -> bool:
        """Whether what is thought to take so long ends in time, if it begins now."""
        if self.minutes is None:
            return True
        return self._ranks.by_first(lambda: MARGIN * seconds <= self._left())

    def shares(self, estimate: Estimate, *, from_first: bool = False) -> Shares | None:
        """What the limit leaves for the estimate's steps and finals; None without a limit.

        It is what is left now, or was `from_first` step on, when the search began.
        """
        if self.minutes is None:
            return None
        left = max(0.0, self._for_search if from_first else self._left())
        finals = MARGIN * estimate.finals.within(self.for_finals)
        num_steps = estimate.steps_within(left / MARGIN, self.for_finals)
        search, least = max(0.0, left - finals), estimate.finals.least
        return Shares(self.minutes, left, finals, search, num_steps, least)

    def describe(self, estimate: Estimate) -> str:
        """What the limit leaves now, behind an estimate; nothing without a limit."""
        shares = self.shares(estimate)
        return f"; {shares.describe()}" if shares else ""

    def spent(self) -> str | None:
        """A line where the time is over already; else None."""
        if self.has_room_for(0.0):
            return None
        return (
            f"minutes={self.minutes:g} is over before the first score: the initial prompt alone is "
            "measured, which takes longer"
        )

    def notes(self, left_out: Sequence[str]) -> tuple[str, ...]:
        """What there was no time for, and that it depends on the machine; none without a limit."""
        if self.minutes is None:
            return ()
        over = -self._left()
        return (
            f"minutes={self.minutes:g}: how far a run comes in that time depends on the machine, "
            "and so does its result",
            *([f"no time was left to evaluate {' and '.join(left_out)}"] if left_out else []),
            *([f"the run took {duration(over)} more than minutes allows"] if over > 0 else []),
        )

    def _left(self) -> float:
        """Seconds to the end: less than none behind it, no end of them without a limit."""
        if self.minutes is None:
            return math.inf
        return self._begun + 60 * self.minutes - self._clock()
