"""A run that ends in time: what it may take, and whether something still fits into it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from greater_fast.ranks import ALONE, Ranks
from greater_fast.runs.timing.estimate import Estimate, duration

OUT_OF_TIME = "out of time"
MARGIN = 1.2  # what is to come may take so many times as long as it is thought to
_FOR_FINALS = 0.5  # of the time that the search begins with, or there would be none for it


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
        self.for_finals = math.inf

    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._begun

    def lap(self) -> float:
        """Seconds since this was last asked."""
        before, self._lap_begun = self._lap_begun, self._clock()
        return self._lap_begun - before

    def begin_search(self) -> None:
        """Set what finals and test may take of the time that is left now: `for_finals`, seconds."""
        self.for_finals = _FOR_FINALS * self._left()

    def has_room_for(self, seconds: float) -> bool:
        """Whether what is thought to take so long ends in time, if it begins now."""
        if self.minutes is None:
            return True
        return self._ranks.by_first(lambda: MARGIN * seconds <= self._left())

    def describe(self, estimate: Estimate) -> str:
        """How many of the steps to come there is time for; nothing without a limit."""
        if self.minutes is None:
            return ""
        num_steps = estimate.steps_within(self._left() / MARGIN, self.for_finals)
        return f"; minutes={self.minutes:g} leaves time for {num_steps} of these steps"

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
