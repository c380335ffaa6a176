"""Figures of the comparison: what a step gains by each policy, and what a simulated search does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.evidence.plots import Estimate, forest_plot

Found = Mapping[str, Any]
_WIDE = 1.96  # standard errors to the end of a 95% interval


def draw(folder: Path, found: Found, ending: str = "") -> list[Path]:
    """Write both figures of all models by name; the paths of those that had anything to show.

    `ending` is of the files' names.
    """
    replayed = [e for model, own in found.items() for e in _replayed(model, own["replayed"])]
    simulated = [e for model, own in found.items() for e in _simulated(model, own["simulated"])]
    plots = {
        f"policies{ending}.svg": (
            replayed,
            "One step by each policy, replayed",
            "gain, points of error",
        ),
        f"policies_simulated{ending}.svg": (
            simulated,
            "SIMULATED searches of equal rollouts",
            "gain, points of error, simulated",
        ),
    }
    written = []
    for name, (estimates, title, x_label) in plots.items():
        if estimates:
            forest_plot(folder / name, estimates, title=title, x_label=x_label)
            written.append(folder / name)
    return written


def _replayed(model: str, lines: Found) -> Iterator[Estimate]:
    for name, own in lines.items():
        mean, low, high = own["gain"]
        if (low, high) != (None, None):
            low, high = -math.inf if low is None else low, math.inf if high is None else high
            yield Estimate(name, 100 * mean, 100 * low, 100 * high, model)


def _simulated(model: str, lines: Found) -> Iterator[Estimate]:
    """Gains at the last budget."""
    for name, own in lines.items():
        mean, error = (100 * value for value in list(own.values())[-1])
        yield Estimate(name, mean, mean - _WIDE * error, mean + _WIDE * error, model)
