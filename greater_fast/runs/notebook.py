"""A result as a notebook shows it: what was gained, a table, and the curve of the search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from greater_fast.runs.visible import visible

if TYPE_CHECKING:
    from greater_fast.runs.evaluation import Evaluation
    from greater_fast.runs.result import PromptResult, Result
    from greater_fast.search.nouns import Step

_WIDTH, _HEIGHT, _MARGIN = 480, 120, 8
_LINE = "#3b82c4"  # on white and on black alike
_LEFT = ' style="text-align: left; white-space: pre-wrap"'


def result_html(result: Result) -> str:
    """HTML without scripts, and with nothing in it that a prompt could end or begin."""
    rows = "".join(
        _row(role, prompt) for role, prompt in (("initial", result.baseline), ("best", result.best))
    )
    judged = () if result.best.judged is None else ("judged",)
    names = ("", "objective", *judged, "dev", "test", "prompt")
    head = "".join(f"<th>{name}</th>" for name in names)
    return (
        f"<div><p>{_text(result.summary)}</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        f"{curve_svg(result.baseline.objective, result.steps)}"
        f"<p>{len(result.steps)} steps, {_text(result.stopped)}; "
        f"<code>{_text(result.run_dir)}</code></p></div>"
    )


def curve_svg(start: float, steps: Sequence[Step]) -> str:
    """The objective after each step, from that of the initial prompt on; accepted changes dotted.

    Nothing where there is no curve.
    """
    values = [(0, start), *((step.step + 1, step.objective) for step in steps)]
    points = [(number, value) for number, value in values if math.isfinite(value)]
    if len(points) < 2:
        return ""
    low, high = min(value for _, value in points), max(value for _, value in points)
    last = points[-1][0]

    def place(number: int, value: float) -> str:
        x = _MARGIN + (_WIDTH - 2 * _MARGIN) * number / last
        share = (value - low) / (high - low) if high > low else 0.5
        return f"{x:.1f},{_HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * share:.1f}"

    line = " ".join(place(*point) for point in points)
    accepted = [step for step in steps if step.changed and math.isfinite(step.objective)]
    dots = "".join(_dot(place(step.step + 1, step.objective), step) for step in accepted)
    label = f"objective: {points[0][1]:.4f} at the start, {points[-1][1]:.4f} after {last} steps"
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{label}" style="max-width: 100%"><title>{label}</title>'
        f'<polyline points="{line}" fill="none" stroke="{_LINE}" stroke-width="2"/>{dots}</svg>'
        f"<p>{label}; lowest {low:.4f}, highest {high:.4f}</p>"
    )


def _dot(place: str, step: Step) -> str:
    x, y = place.split(",")
    return (
        f'<circle cx="{x}" cy="{y}" r="4" fill="{_LINE}"><title>step {step.step + 1}: '
        f"{_text(step.prompt)}</title></circle>"
    )


def _row(role: str, prompt: PromptResult) -> str:
    judged = () if prompt.judged is None else (f"{prompt.judged:g}",)
    cells = (f"{prompt.objective:.4f}", *judged, _measured(prompt.dev), _measured(prompt.test))
    figures = "".join(f"<td>{cell}</td>" for cell in cells)
    return f"<tr><th>{role}</th>{figures}<td{_LEFT}>{_text(prompt.prompt)}</td></tr>"


def _measured(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "–"
    low, high = evaluation.interval
    return f"{evaluation.accuracy:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def _text(text: object) -> str:
    return escape(visible(text))
