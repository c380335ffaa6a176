"""`--log`: where a run is shown while it goes on."""

from __future__ import annotations

import argparse

from greater_fast.search.optimizer import OnStep
from greater_fast.trackers import TRACKERS, make_tracker


def add_log_option(command: argparse.ArgumentParser) -> None:
    """The option that names trackers, one or several."""
    command.add_argument(
        "--log",
        action="append",
        choices=sorted(TRACKERS),
        help="show the run in TensorBoard or Weights & Biases too; may be given again",
    )


def trackers(options: argparse.Namespace) -> OnStep | None:
    """The trackers that are asked for, one behind the other; None without any.

    Raises:
        ValueError: the package of one is not installed; names the extra that brings it.
    """
    on_step: OnStep | None = None
    for name in dict.fromkeys(options.log or ()):
        try:
            on_step = make_tracker(name, on_step)
        except ImportError as error:
            raise ValueError(f"--log {name}: {error}") from error
    return on_step
