"""The live curve of a run, drawn as SVG: objective and error by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM, _TOP = 480, 220, 48, 14, 26, 12
_LINES = (("objective", "objective"), ("error", "error_rate"))  # class of CSS, field of a step
_NUM_TICKS = 4


def curve(steps: Sequence[dict[str, Any]], num_planned: int) -> str:
    """Both figures of the steps, from 0 to their highest value; steps count from 1.

    Texts are numbers alone; nothing of data is in it. Nothing is drawn before the first step.
    """
    if not steps:
        return ""
    first, last = steps[0]["step"] + 1, max(steps[-1]["step"] + 1, num_planned)
    top = max(float(step[field]) for step in steps for _, field in _LINES) or 1.0
    across = (_WIDTH - _LEFT - _RIGHT) / max(1, last - first)

    def place(number: int, value: float) -> tuple[str, str]:
        return f"{_LEFT + across * (number - first):.1f}", f"{_height(value / top):.1f}"

    parts = [_ticks(top), *_numbers(first, last, across)]
    for name, field in _LINES:
        points = [place(step["step"] + 1, float(step[field])) for step in steps]
        path = " ".join(f"{x},{y}" for x, y in points)
        x, y = points[-1]
        parts.append(f"<polyline class='{name}' points='{path}'/>")
        parts.append(f"<circle class='{name}' cx='{x}' cy='{y}' r='4'/>")
    figures = ", ".join(f"{name} {float(steps[-1][field]):.4f}" for name, field in _LINES)
    told = f"After step {steps[-1]['step'] + 1}: {figures}"
    keys = "".join(f"<span class='key {name}'>{name}</span>" for name, _ in _LINES)
    return (
        f"<figure class='curve'><figcaption>{told} (lower is better) {keys}</figcaption>"
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='{told}'>"
        f"{''.join(parts)}</svg></figure>"
    )


def _ticks(top: float) -> str:
    """Lines across at parts of the highest value, each with its number."""
    parts = []
    for number in range(_NUM_TICKS + 1):
        part = number / _NUM_TICKS
        value, y = top * part, _height(part)
        parts.append(f"<line x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{y:.1f}' y2='{y:.1f}'/>")
        parts.append(f"<text x='{_LEFT - 8}' y='{y + 4:.1f}' text-anchor='end'>{value:.2f}</text>")
    return "".join(parts)


def _height(part: float) -> float:
    """Where a part of the highest value stands; y grows downwards."""
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
