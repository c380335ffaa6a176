"""Racing: a candidate that keeps losing rows to the incumbent is dropped before its last one.

Rows are taken in an order drawn for the step, and one that ends early waits for those before it: so
a drop follows from the rows' outcomes, whatever engine, batch or rank they come from, and when.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from greater_fast.config import Config
from greater_fast.engine import Rollout
from greater_fast.search.nouns import Scored

# Share of the wealth: of the rules compared that keep their level it takes fewest rows, on the mean
# of what was simulated (docs/evidence/racing.md).
BET = 0.75


@dataclass(frozen=True, slots=True)
class Course:
    """What all candidates of a step run over: rows in the drawn order, the incumbent's errors."""

    order: tuple[int, ...]
    errors: tuple[float, ...]  # by row
    alpha: float


def draw_course(incumbent: Scored, step: int, config: Config) -> Course | None:
    """The course of a step, a function of seed and step; None where there is no racing."""
    if config.race == 0:
        return None
    rows = range(len(incumbent.rollouts))
    order = random.Random(f"{config.seed}/race/{step}").sample(rows, len(rows))
    return Course(tuple(order), tuple(r.error for r in incumbent.rollouts), config.race)


class Race:
    """One candidate against the incumbent: a betting e-process, over the rows where they differ.

    Null hypothesis: among rows not used to choose the incumbent, a row where they differ favours
    the candidate with probability at least 1/2, whatever the rows before it came to.

    Of a wealth of 1 at first, 3/4 is bet on the incumbent at each such row: it grows to 7/4 of
    itself where the candidate alone is wrong, and falls to 1/4 where the incumbent alone is. Under
    the null hypothesis it is not expected to grow, so that it ever reaches 1/alpha with probability
    alpha at most (Ville's inequality), however often one looks; there the candidate is dropped.

    alpha is per candidate, not per run, which tries many. The bound holds in the first step: of
    the candidates as good as the initial prompt, up to alpha are dropped. A later incumbent was
    chosen for its luck on these very rows, and so is an initial prompt that has stayed: the race is
    a heuristic then, which drops several times as many (docs/evidence/racing.md).

    Where a metric measures answers, rows differ in part: of what is bet, a row takes or gives the
    share that its errors differ by, and the null hypothesis is that a row's error is, on average,
    no larger for the candidate, whatever the rows before it came to.
    """

    def __init__(self, course: Course) -> None:
        self._course, self._wealth, self._num_rows = course, 1.0, 0
        self._early: dict[int, Rollout] = {}

    def in_turn(self, row: int, rollout: Rollout) -> Iterator[tuple[int, Rollout]]:
        """Take a row in that has ended; it and those it held up, as their turn comes."""
        self._early[row] = rollout
        order = self._course.order
        while self._num_rows < len(order) and order[self._num_rows] in self._early:
            row = order[self._num_rows]
            self._num_rows += 1
            yield row, self._early.pop(row)

    def bet(self, row: int, error: float) -> None:
        """Settle the bet on a row by the candidate's error there, in [0, 1]."""
        self._wealth *= 1 + BET * (error - self._course.errors[row])

    @property
    def is_lost(self) -> bool:
        """Whether the candidate is dropped."""
        return self._wealth * self._course.alpha >= 1
