"""The live curve of a run, drawn as SVG: objective and error by step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM, _TOP = 640, 250, 52, 14, 28, 12
_LINES = (("objective", "objective"), ("error", "error_rate"))  # class of CSS, field of a step
_NUM_TICKS = 6  # at most, 0 aside
_LEAST = 0.05  # the lowest that the highest tick is


def curve(
    steps: Sequence[Mapping[str, Any]], num_planned: int, initial: Mapping[str, float] | None = None
) -> str:
    """Both figures by step, from 0 to a round number above their highest value.

    `initial` has those of the initial prompt, which stand at 0; steps count from 1. A figure holds
    until the next step is done: there is nothing between two. Texts are numbers alone; nothing of
    data is in it. Nothing is drawn where nothing is known.
    """
    known = [(step["step"] + 1, step) for step in steps]
    if initial is not None:
        known.insert(0, (0, initial))
    if not known:
        return ""
    first, (done, figures) = known[0][0], known[-1]
    last = max(done, num_planned)
    ticks = _ticks(max(float(values[field]) for _, values in known for _, field in _LINES))
    across = (_WIDTH - _LEFT - _RIGHT) / max(1, last - first)
    parts = [*_lines(ticks), *_numbers(first, last, across)]
    for name, field in _LINES:
        points: list[str] = []
        for number, values in known:
            x = f"{_LEFT + across * (number - first):.1f}"
            y = f"{_height(float(values[field]) / ticks[-1]):.1f}"
            points += [f"{x},{points[-1].partition(',')[2]}"] if points else []
            points.append(f"{x},{y}")
        parts.append(f"<polyline class='{name}' points='{' '.join(points)}'/>")
        parts.append(f"<circle class='{name}' cx='{x}' cy='{y}' r='3.5'/>")
    came_to = ", ".join(f"{name} {float(figures[field]):.4f}" for name, field in _LINES)
    told = f"{f'After step {done}' if done else 'Before the first step'}: {came_to}"
    keys = "".join(f"<span class='key {name}'>{name}</span>" for name, _ in _LINES)
    return (
        f"<figure class='curve'><figcaption>{told} (lower is better) {keys}</figcaption>"
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='{told}'>"
        f"{''.join(parts)}</svg></figure>"
    )


def _ticks(top: float) -> list[float]:
    """Round numbers from 0 to the first above all values, at 1, 2 or 5 of a power of ten."""
    rough = max(top, _LEAST) / _NUM_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    apart = next(power * part for part in (1, 2, 5, 10) if power * part >= rough)
    return [apart * number for number in range(math.ceil(max(top, _LEAST) / apart) + 1)]


def _lines(ticks: Sequence[float]) -> list[str]:
    """A line across at each tick, and its number."""
    digits = max(0, -math.floor(math.log10(ticks[1]) + 1e-9))
    parts = []
    for value in ticks:
        y = _height(value / ticks[-1])
        parts.append(f"<line x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{y:.1f}' y2='{y:.1f}'/>")
        text = f"{value:.{digits}f}"
        parts.append(f"<text x='{_LEFT - 8}' y='{y + 4:.1f}' text-anchor='end'>{text}</text>")
    return parts


def _height(part: float) -> float:
    """Where a part of the highest tick stands; y grows downwards."""
    return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * part


def _numbers(first: int, last: int, across: float) -> list[str]:
    """Numbers of steps below: the first, the last and a few between."""
    every = max(1, -(-(last - first) // 8))
    shown = [*range(first, last, every), last]
    if len(shown) > 2 and last - shown[-2] < every / 2:
        del shown[-2]
    return [
        f"<text x='{_LEFT + across * (n - first):.1f}' y='{_HEIGHT - 8}' text-anchor='middle'>"
        f"{n}</text>"
        for n in shown
    ]
