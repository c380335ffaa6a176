"""Where people look at runs: each tracker is an `on_step` of `optimize`, in a file of its own."""

from __future__ import annotations

import importlib

from greater_fast.search.optimizer import OnStep
from greater_fast.trackers.tracker import Tracker

TRACKERS = {
    "tensorboard": ("greater_fast.trackers.tensorboard", "TensorBoard"),
    "wandb": ("greater_fast.trackers.wandb", "WandB"),
}


def make_tracker(name: str, on_step: OnStep | None = None) -> Tracker:
    """The tracker of a name, followed by an `on_step` of one's own.

    Raises:
        ImportError: its package is not installed; names the extra that brings it.
    """
    module, kind = TRACKERS[name]
    tracker: Tracker = getattr(importlib.import_module(module), kind)(on_step)
    return tracker
