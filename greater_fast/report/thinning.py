"""Long runs in figures: as many points as can be seen, and no more bytes than that takes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from greater_fast.report.run_view import Step

_MOST_POINTS, _MOST_BARS = 400, 120
_T = TypeVar("_T")


def every_kth(items: Sequence[_T]) -> Sequence[_T]:
    """At most 400 of them, evenly, from the first on."""
    return items[:: max(1, math.ceil(len(items) / _MOST_POINTS))]


def turns(values: Mapping[int, float]) -> Mapping[int, float]:
    """What a line of steps needs: its ends, and where it changes; of too many, every k-th."""
    steps = list(values)
    inner = [b for a, b in itertools.pairwise(steps[:-1]) if values[a] != values[b]]
    return {step: values[step] for step in (*steps[:1], *every_kth(inner), *steps[1:][-1:])}


def mean_seconds(steps: Sequence[Step], stages: Sequence[str]) -> tuple[int, list[list[float]]]:
    """How many steps a bar is of, and for each stage the mean seconds of a step, bar by bar."""
    size = max(1, math.ceil(len(steps) / _MOST_BARS))
    bars = [steps[n : n + size] for n in range(0, len(steps), size)]
    means = [
        [math.fsum(step.seconds.get(stage, 0.0) for step in bar) / len(bar) for bar in bars]
        for stage in stages
    ]
    return size, means
