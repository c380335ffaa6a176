"""What `plan` returns: a run's memory, how much it does at most, and how long that takes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from greater_fast.config import Config
from greater_fast.examples.layout import Layouts
from greater_fast.memory.budget import MemoryPlan
from greater_fast.runs.timing.estimate import Estimate
from greater_fast.runs.timing.pace import Pace
from greater_fast.runs.timing.time_budget import TimeBudget
from greater_fast.runs.timing.work import Work
from greater_fast.search.ensemble import Models
from greater_fast.search.nouns import Step
from greater_fast.search.optimizer import run, start
from greater_fast.wording import quoted


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan(MemoryPlan):
    """A plan of the memory, with the work of the run; `time` is None where nothing was measured."""

    work: Work
    time: Estimate | None = None

    @classmethod
    def of(cls, memory: MemoryPlan, work: Work, estimate: Estimate | None) -> RunPlan:
        """The plan of a run from its parts."""
        parts = {f.name: getattr(memory, f.name) for f in dataclasses.fields(MemoryPlan)}
        return cls(**parts, work=work, time=estimate)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, for JSON."""
        estimate = self.time.to_dict() if self.time else None
        return {**super(RunPlan, self).to_dict(), "time": estimate}


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
    clock: Callable[[], float] = time.monotonic,
) -> Estimate:
    """How long a run takes, from its first steps: these are taken, and then forgotten."""
    rows, pace, watch = layouts["train"], Pace(layouts, config), TimeBudget(clock=clock)
    state = start(models, rows, config)
    pace.add_score(state.incumbent, watch.lap())

    def add(step: Step) -> None:
        pace.add_step(step, watch.lap())
        on_step(step)

    run(models, rows, dataclasses.replace(config, steps=num_steps), state, add)
    return pace.estimate(state, config.steps)
