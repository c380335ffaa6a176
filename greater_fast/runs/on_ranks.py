"""What runs on all ranks: rank 0 writes and tells, and its settings and result are all's."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from greater_fast.config import Config
from greater_fast.ranks import Ranks, join
from greater_fast.runs.directory import RunDirectory

P = ParamSpec("P")
R = TypeVar("R")


def on_all_ranks(function: Callable[P, R]) -> Callable[P, R]:
    """A function that every rank calls, which ends alike on all: with rank 0's result, or an error.

    It says nothing on the others.
    """

    @functools.wraps(function)
    def on_all(*args: P.args, **kwargs: P.kwargs) -> R:
        ranks = join()
        with ranks.together(), contextlib.nullcontext() if ranks.is_first else _silence():
            return ranks.from_first(function(*args, **kwargs))

    return on_all


def placed(config: Config, model: Any, ranks: Ranks) -> Config:
    """Settings for this rank, whose model goes to a device of its own unless it is loaded.

    Raises:
        ValueError: the ranks have no device each; says what to change.
    """
    if ranks.size == 1 or not isinstance(model, str | Path):
        return config
    return dataclasses.replace(config, device=ranks.place(config.device))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the package's log and all warnings from being shown."""
    log = logging.getLogger("greater_fast")
    was_disabled, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = was_disabled


class NoDirectory(RunDirectory):
    """The run directory on a rank that writes nothing."""

    path = Path()
    problem = None
    notes = ()

    def __init__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def begin(self, run: Mapping[str, Any], examples: Iterable[Mapping[str, Any]]) -> None:
        """Nothing."""

    def go_on(self, changed: Mapping[str, Any]) -> None:
        """Nothing."""

    def append_rollouts(self, prompts: Sequence[Mapping[str, Any]]) -> None:
        """Nothing."""

    def write_clock(self, seconds: Mapping[str, float]) -> None:
        """Nothing."""

    def append_step(self, step: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Nothing."""

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Nothing."""

    def append_row(self, row: Mapping[str, Any]) -> None:
        """Nothing."""

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Nothing."""
