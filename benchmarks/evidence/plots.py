"""Figures of the evidence: estimates with their intervals, and lines with bands, as small SVGs.

The same input gives the same file, byte for byte. matplotlib is asked for when a figure is drawn: a
machine that measures needs none.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which most eyes tell apart; black first.
COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKERS = "Dos^vP*"
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "greater_fast",
    "svg.fonttype": "none",  # text stays text
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_WIDTH, _ROW_HEIGHT = 7.0, 0.24  # inches


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with the ends of its interval; estimates of a `name` share a row of the plot.

    An end that is infinite is an open one: its line leaves the plot.
    """

    name: str
    mean: float
    low: float
    high: float
    series: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """Means over x, with the ends of their intervals; all of one length."""

    name: str
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def forest_plot(
    path: Path,
    estimates: Sequence[Estimate],
    *,
    title: str,
    x_label: str,
    reference: float | None = 0.0,
) -> None:
    """Estimates with their intervals, a row a name in the order given, a colour a series.

    `reference` is where a line says what would be no effect. The file's ending says its format.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not estimates:
        raise ValueError(f"{path}: got no estimates, expected one at least")
    names = list(dict.fromkeys(estimate.name for estimate in estimates))
    series = list(dict.fromkeys(estimate.series for estimate in estimates))
    num_rows = len(names) * len(series)
    shown = [end for e in estimates for end in (e.low, e.mean, e.high) if math.isfinite(end)]
    width = max(shown) - min(shown) or 1.0
    is_open = len(shown) < 3 * len(estimates)

    def draw(axes: "Axes") -> None:
        if reference is not None:
            axes.axvline(reference, color="#999999", linewidth=0.8, zorder=0)
        for number, one in enumerate(series):
            own = [estimate for estimate in estimates if estimate.series == one]
            offset = 0.7 * ((number + 0.5) / len(series) - 0.5)
            ends = [(e.mean - e.low, e.high - e.mean) for e in own]
            axes.errorbar(
                [e.mean for e in own],
                [names.index(e.name) + offset for e in own],
                xerr=[[min(end, 2 * width) for end in side] for side in zip(*ends, strict=True)],
                fmt=_MARKERS[number % len(_MARKERS)],
                color=COLOURS[number % len(COLOURS)],
                markersize=4,
                linewidth=1.2,
                label=one,
            )
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(x_label)
        if is_open:
            axes.set_xlim(min(shown) - 0.05 * width, max(shown) + 0.05 * width)

    _save(path, draw, title, height=1.1 + _ROW_HEIGHT * num_rows, has_legend=series != [""])


def line_plot(path: Path, lines: Sequence[Line], *, title: str, x_label: str, y_label: str) -> None:
    """Lines with their bands. The file's ending says its format.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not lines:
        raise ValueError(f"{path}: got no lines, expected one at least")

    def draw(axes: "Axes") -> None:
        for number, line in enumerate(lines):
            colour = COLOURS[number % len(COLOURS)]
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
            marker = _MARKERS[number % len(_MARKERS)]
            axes.plot(line.x, line.mean, color=colour, marker=marker, markersize=4, label=line.name)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)

    _save(path, draw, title, height=3.6, has_legend=True)


def _save(
    path: Path, draw: Callable[["Axes"], None], title: str, height: float, has_legend: bool
) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # no pyplot: it has a state, and looks for a display

    with rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        figure.suptitle(title, x=0.01, horizontalalignment="left")  # as wide as the figure
        if has_legend:
            figure.legend(loc="outside lower center", ncols=4, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        is_svg = path.suffix == ".svg"
        figure.savefig(path, metadata={"Date": None} if is_svg else None)
