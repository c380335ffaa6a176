"""Figures of matplotlib as SVG inside a page: of its colours and letters, the same bytes each time.

Colours are asked for by the names of the page's variables (`theme("accent")`): matplotlib draws
with stand-ins, which become `var(--accent)`, so that a figure is dark where the page is.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SERIES = tuple(f"series-{number}" for number in range(8))
_THEME = ("ink", "muted", "line", "accent", "good", "bad", "paper", *SERIES)
_SETTINGS = threading.Lock()  # matplotlib's are the process's: one figure at a time changes them
_WIDTH = 4.6  # inches of 72 units: as wide as a phone, so that its letters are of their own size
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "path.simplify": False,
}


def theme(name: str) -> str:
    """The stand-in of one of the page's colours, as matplotlib takes it."""
    return f"#ab{_THEME.index(name):02x}cd"


def inline_svg(name: str, label: str, draw: Callable[[Axes], None], height: float = 2.7) -> str:
    """A figure as an `<svg>` element that is as wide as the place it is put in.

    `name` tells it from the page's other figures, `label` says what it shows to who cannot see it,
    `height` is in inches. No text of others may be drawn: matplotlib reads some of it as formulas.
    """
    from matplotlib import rc_context, rcdefaults  # here: `--help` does without
    from matplotlib.figure import Figure  # no pyplot: it has a state, and looks for a display

    style: dict[Any, Any] = {**_STYLE, **_colours(), "svg.hashsalt": name}
    with _SETTINGS, rc_context():
        rcdefaults()  # whatever the user's own file says
        with rc_context(style):
            figure = Figure(figsize=(_WIDTH, height), layout="constrained")
            figure.patch.set_visible(False)
            axes = figure.add_subplot()
            axes.patch.set_visible(False)
            draw(axes)
            file = io.StringIO()
            figure.savefig(file, format="svg", metadata=dict.fromkeys(_METADATA))
    return _in_page(file.getvalue(), label)


_METADATA = ("Date", "Creator", "Format", "Type")


def _colours() -> dict[str, Any]:
    ink, muted, line = theme("ink"), theme("muted"), theme("line")
    return {
        "text.color": ink,
        "axes.labelcolor": muted,
        "axes.edgecolor": line,
        "xtick.color": line,
        "ytick.color": line,
        "xtick.labelcolor": muted,
        "ytick.labelcolor": muted,
        "grid.color": line,
        "grid.linewidth": 0.7,
    }


def _in_page(svg: str, label: str) -> str:
    """What of a file belongs into a page: no prolog, no styles of its own, no names that clash."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # those that are referred to stand on other elements
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    svg = re.sub(r' transform="rotate\(-?0 [^"]*"', "", svg)
    svg = re.sub(r"<[^>]*>", _rounded, svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    svg = re.sub(r"#ab([0-9a-f]{2})cd", lambda found: f"var(--{_THEME[int(found[1], 16)]})", svg)
    opening = f'<svg class="figure" role="img" aria-label="{escape(label)}" {view[0]}>'
    return re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1).strip()


def _rounded(tag: re.Match[str]) -> str:
    """A tag with places to the hundredth of a point, below which nobody sees; texts keep theirs."""
    return re.sub(r"(\.\d\d)\d+", r"\1", tag[0])
