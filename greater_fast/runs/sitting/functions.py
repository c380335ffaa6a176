"""Functions of the user's own in a run, and the names that they are asked for again by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from greater_fast.config import Config
from greater_fast.examples.metrics import Metric, name_of_metric
from greater_fast.gradients.example_loss import AnswerLoss
from greater_fast.search.checks import check_functions
from greater_fast.search.judge import Judge
from greater_fast.search.optimizer import OnStep


@dataclass(frozen=True, slots=True)
class Functions:
    """Functions of the user's own, which no file holds; None for none."""

    on_step: OnStep | None = None
    loss: AnswerLoss | None = None
    metric: Metric | str | None = None
    judge: Judge | None = None

    def check(self, config: Config) -> None:
        """Raise ValueError where one cannot be called, or goes with no such settings."""
        check_functions(self.on_step, self.loss, config, self.judge)

    @property
    def names(self) -> dict[str, str | None]:
        """The names by which a run that is gone on with asks for them again.

        An `on_step` that says of itself that it `only_watches` decides nothing, and is not missed.
        """
        on_step = None if getattr(self.on_step, "only_watches", False) else self.on_step
        return {
            "on_step": name_of(on_step),
            "loss": name_of(self.loss),
            "metric": name_of_metric(self.metric) if callable(self.metric) else None,
            "judge": name_of(self.judge),
        }


def name_of(function: Any) -> str | None:
    """The name by which a function is asked for again; None of none."""
    return None if function is None else str(getattr(function, "__name__", type(function).__name__))
