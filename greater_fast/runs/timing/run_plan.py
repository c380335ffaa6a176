"""What `plan` returns: a run's memory, how much it does at most, and how long that takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from greater_fast.config import Config
from greater_fast.examples.layout import Layouts
from greater_fast.memory.budget import MemoryPlan
from greater_fast.runs.timing.estimate import Estimate
from greater_fast.runs.timing.pace import Pace
from greater_fast.runs.timing.time_budget import Shares, TimeBudget
from greater_fast.runs.timing.work import Work
from greater_fast.search.ensemble import Models
from greater_fast.search.nouns import Step
from greater_fast.search.optimizer import run, start
from greater_fast.wording import quoted


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan(MemoryPlan):
    """A plan of the memory, with the work of the run; `time` is None where nothing was measured.

    `shares` is what a limit of minutes leaves behind the first score, where there is one and time
    was measured.
    """

    work: Work
    time: Estimate | None = None
    shares: Shares | None = None

    @classmethod
    def of(
        cls,
        memory: MemoryPlan,
        work: Work,
        estimate: Estimate | None = None,
        shares: Shares | None = None,
    ) -> RunPlan:
        """The plan of a run from its parts."""
        parts = {f.name: getattr(memory, f.name) for f in dataclasses.fields(MemoryPlan)}
        return cls(**parts, work=work, time=estimate, shares=shares)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, for JSON."""
        estimate = self.time.to_dict() if self.time else None
        shares = self.shares.to_dict() if self.shares else None
        return {**super(RunPlan, self).to_dict(), "time": estimate, "shares": shares}

    def describe_time(self, minutes: float | None) -> str:
        """How long the run takes, and what so many minutes leave; or how these can be known."""
        if self.time is None:
            left = (
                "" if minutes is None else f", and what minutes={minutes:g} leaves for the search"
            )
            return f"how long that takes{left}: --measure 3"
        behind = f"; {self.shares.describe()}" if self.shares else ""
        return f"{self.time.describe()}{behind}"


def check_measure(num_steps: object, gpu_memory: int | None) -> None:
    """Raise ValueError where so many steps cannot be taken to tell a run's time.

    A plan for a GPU of some size says nothing of how fast it is.
    """
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 0:
        raise ValueError(f"measure: got {quoted(num_steps, 60)}, expected a number of steps, or 0")
    if num_steps and gpu_memory is not None:
        raise ValueError(
            "measure: steps are taken on the device that is here, not on a GPU of gpu_memory: "
            "leave one of the two out"
        )


def measured(
    models: Models,
    layouts: Mapping[str, Layouts],
    config: Config,
    num_steps: int,
    on_step: Callable[[Step], object],
    watch: TimeBudget,
) -> tuple[Estimate, Shares | None]:
    """How long a run takes, from its first steps: these are taken, and then forgotten.

    With it comes what the limit of `watch` leaves.
    """
    rows, pace = layouts["train"], Pace(layouts, config)
    watch.lap()
    state = start(models, rows, config)
    pace.add_score(state.incumbent, watch.lap())
    watch.begin_search()

    def add(step: Step) -> None:
        pace.add_step(step, watch.lap())
        on_step(step)

    run(models, rows, dataclasses.replace(config, steps=num_steps), state, add)
    estimate = pace.estimate(state, config.steps)
    return estimate, watch.shares(estimate, from_first=True)
