"""An `on_step` that is told of a run's beginning and end too, as trackers want to be."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from greater_fast.runs.result import Result
from greater_fast.runs.visible import described
from greater_fast.search.nouns import Step
from greater_fast.search.optimizer import OnStep


@runtime_checkable
class Follower(Protocol):
    """What can be given as `on_step`, and hears more than steps."""

    def begin(self, run_dir: Path) -> None:
        """The run's folder and `run.json` are there; a run that is resumed begins again."""

    def __call__(self, step: Step) -> bool | None:
        """A finished step; a true value ends the search."""

    def end(self, result: Result | None) -> None:
        """The result, once it is written; None where something else ends the run."""


def followed(on_step: OnStep | None, run_dir: Path, run: Callable[[], Result]) -> Result:
    """What `run` returns, with its beginning and end told to an `on_step` that wants to know.

    An `end` that fails is warned of: it takes no result from the caller, and hides no error.
    """
    if not isinstance(on_step, Follower):
        return run()
    result = None
    on_step.begin(run_dir)
    try:
        result = run()
    finally:
        try:
            on_step.end(result)
        except Exception as error:
            warnings.warn(
                f"on_step: its `end` failed ({described(error)}); the run had ended before that",
                RuntimeWarning,
                stacklevel=2,
            )
    return result
