"""What settings may be: values of which more can be wrong than their type and range."""

from __future__ import annotations

import datetime
import difflib
import json
import math
from collections.abc import Mapping

from greater_fast.wording import in_one_line, quoted


def guess(name: str, known: list[str]) -> str:
    """A question for who may have meant the nearest of the known names; empty if none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {near[0]}?" if near else ""


def is_finite(value: float) -> bool:
    """Whether a number is one that machines count with."""
    return -(1 << 63) < value < 1 << 63 if isinstance(value, int) else math.isfinite(value)


def is_date(value: object) -> bool:
    """Whether a value is a day, as 2026-11-26."""
    try:
        return isinstance(value, str) and bool(datetime.date.fromisoformat(value))
    except ValueError:
        return False


def problem_of_arguments(value: object) -> str | None:
    """What is wrong with arguments of the chat template, which are written down with a run."""
    name = "chat_template_kwargs"
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return f"{name}: got {quoted(value, 60)}, expected a dict of names and values"
    try:
        json.dumps(dict(value))
    except (TypeError, ValueError, RecursionError) as error:
        said = in_one_line(error, 60)
        return f"{name}: got {quoted(value, 60)}, expected values that JSON can hold: {said}"
    return None
