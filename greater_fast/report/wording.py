"""Numbers and texts as a page shows them."""

from __future__ import annotations

import json
from typing import Any

from greater_fast.runs.visible import visible

NONE = "–"


def percent(value: float | None) -> str:
    """A share in percent."""
    return NONE if value is None else f"{100 * value:.1f}%"


def interval(ends: tuple[float, float] | None) -> str:
    """An interval of a share, in percent."""
    return NONE if ends is None else f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}%"


def number(value: float | None, digits: int = 4) -> str:
    """A number that may be missing."""
    return NONE if value is None else f"{value:.{digits}f}".replace("-", "−")


def duration(seconds: float) -> str:
    """Seconds for a reader."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.{1 if seconds < 600 else 0}f} min"
    return f"{seconds / 3600:.1f} h"


def many(count: int, what: str) -> str:
    """A number of things: "1 row", "1,000 rows"."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def as_json(value: Any) -> str:
    """A setting's value, as JSON has it."""
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return NONE


def cut(text: str, most: int) -> str:
    """A text as it can be seen; of a longer one its beginning and end, and what was left out."""
    if len(text) > most:
        head, tail = 2 * most // 3, most // 3
        left_out = f" … [{len(text) - head - tail:,} characters left out] … "
        text = text[:head] + left_out + text[-tail:]
    return text if text.replace("\n", "").isprintable() else visible(text)  # which takes longer


def line(text: str, most: int = 90) -> str:
    """The beginning of a text, on one line."""
    flat = " ".join(text[: 4 * most].split())
    return visible(flat if len(flat) <= most and len(text) <= 4 * most else f"{flat[:most]}…")
