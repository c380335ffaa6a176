"""What trackers share: figures of a step and of a result; no failure of theirs harms a run."""

from __future__ import annotations

import importlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from greater_fast.runs.read import read_object
from greater_fast.runs.result import Result
from greater_fast.runs.sitting.followers import Follower
from greater_fast.runs.visible import described, visible
from greater_fast.search.nouns import Step
from greater_fast.search.optimizer import OnStep

# Of `run.json`, beside the settings: what runs are compared by.
_ORIGIN = ("model", "prompt", "extractor", "metric", "num_ranks", "machine", "versions")


class Tracker(ABC):
    """Shows a run elsewhere while it goes on. `on_step`, if any, is called behind it as by itself.

    The first failure is warned of, and ends the tracking alone.

    Raises:
        ImportError: `package` is not installed; names the extra that brings it.
    """

    name: ClassVar[str]
    package: ClassVar[str]

    def __init__(self, on_step: OnStep | None = None) -> None:
        try:
            importlib.import_module(self.package)
        except ImportError as error:
            raise ImportError(
                f"{self.name} is not installed ({visible(error)}): "
                f"pip install 'greater-fast[{self.name}]'"
            ) from error
        self._on_step, self._has_failed = on_step, False

    def begin(self, run_dir: Path) -> None:
        """Begin to show the run of a folder, or go on with it."""
        run = read_object(run_dir / "run.json", []) or {}
        self._try(lambda: self.open(run_dir, settings_of(run)))
        if isinstance(self._on_step, Follower):
            self._on_step.begin(run_dir)

    def __call__(self, step: Step) -> bool | None:
        """Show a finished step; what `on_step` says of it."""
        self._try(lambda: self.show(step.step + 1, figures_of(step), visible(step.prompt)))
        return self._on_step(step) if self._on_step else None

    def end(self, result: Result | None) -> None:
        """Show the outcome, None where there is none, and close."""
        try:
            self._try(lambda: self.close(None if result is None else outcome_of(result)))
        except KeyboardInterrupt:  # the result is written: what is given up is showing it
            self._give_up("interrupted")
        if isinstance(self._on_step, Follower):
            self._on_step.end(result)

    @property
    def only_watches(self) -> bool:
        """Whether a run that is resumed may do without this: it decides nothing."""
        return self._on_step is None or getattr(self._on_step, "only_watches", False)

    @abstractmethod
    def open(self, run_dir: Path, settings: Mapping[str, Any]) -> None:
        """Begin, or go on; nothing is written outside of the run's folder."""

    @abstractmethod
    def show(self, number: int, figures: Mapping[str, float], prompt: str) -> None:
        """Show a step by its number, from 1, and the prompt that it left, fit to be seen."""

    @abstractmethod
    def close(self, outcome: Mapping[str, float | str] | None) -> None:
        """Show the outcome, if there is one, and let go of everything."""

    def _try(self, action: Callable[[], None]) -> None:
        if self._has_failed:
            return
        try:
            action()
        except Exception as error:  # a disk, a server, a library of somebody else's
            self._give_up(described(error))

    def _give_up(self, why: str) -> None:
        self._has_failed = True
        warnings.warn(
            f"{self.name} shows no more of this run ({why}); the run itself is not touched",
            RuntimeWarning,
            stacklevel=2,
        )


def settings_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """What `run.json` says of settings and origin, by name, with texts that are fit to be seen."""
    values = {**run.get("config", {}), **{name: run[name] for name in _ORIGIN if name in run}}
    return {name: _shown(value) for name, value in values.items()}


def figures_of(step: Step) -> dict[str, float]:
    """The figures of a step, by name: what was reached, and what it cost (seconds, bytes)."""
    objectives = [trial.objective for trial in step.trials if trial.objective is not None]
    return {
        "objective": step.objective,
        "error_rate": step.error_rate,
        "changed": float(step.changed),
        "prompt_tokens": len(step.prompt_ids),
        **({"best_candidate": min(objectives)} if objectives else {}),
        "generated_tokens": step.num_generated_tokens,
        "peak_memory_bytes": step.peak_memory_bytes,
        **{f"seconds/{stage}": seconds for stage, seconds in step.seconds.items()},
    }


def outcome_of(result: Result) -> dict[str, float | str]:
    """What a run came to, by name: accuracies before and after, the gain with its 95% interval."""
    found: dict[str, float | str] = {}
    for role, prompt in (("initial", result.baseline), ("best", result.best)):
        for split, measured in (("dev", prompt.dev), ("test", prompt.test)):
            if measured is not None:
                found[f"{split}_accuracy/{role}"] = measured.accuracy
    for split in ("dev", "test"):
        comparison = getattr(result, f"{split}_comparison")
        if comparison is not None:
            low, high = comparison.interval
            found |= {
                f"{split}_gain": comparison.difference,
                f"{split}_gain/low": low,
                f"{split}_gain/high": high,
            }
    texts = {"stopped": result.stopped, "summary": result.summary, "prompt": result.prompt}
    return {**found, **{name: visible(text) for name, text in texts.items()}}


def _shown(value: Any) -> Any:
    """The value with its texts fit to be seen."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible(key): _shown(inner) for key, inner in value.items()}
    return [_shown(inner) for inner in value] if isinstance(value, list | tuple) else value
