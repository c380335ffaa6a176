"""What a setting's value must be: by its choices, its type, its bounds."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from greater_fast.wording import in_one_line, listed, quoted


def problem_of(
    setting: dataclasses.Field[Any], value: object, choices: Mapping[str, Sequence[str | None]]
) -> str | None:
    """What is wrong with the value of one setting, or None; `choices` has those of some by name."""
    name = setting.name
    if name in choices:
        if (value is None or isinstance(value, str)) and value in choices[name]:
            return None
        function = ", or a function, given as optimize(..., metric=...)" if callable(value) else ""
        wanted = f"{listed(choices[name])}{function}"
        return f"{name}: got {quoted(value, 60)}, expected one of {wanted}"
    if name == "chat_template_kwargs":
        return _problem_of_arguments(value)
    if name == "template_date" and value is not None and not _is_date(value):
        return f"{name}: got {quoted(value, 60)}, expected a day such as 2026-11-26"
    if setting.default is None and (value is None or setting.metadata["low"] is None):
        if value is None or (isinstance(value, str) and value.strip()):
            return None
        return f"{name}: got {quoted(value, 60)}, expected a text that is not empty, or None"
    if isinstance(setting.default, bool):
        known = isinstance(value, bool)
        return None if known else f"{name}: got {quoted(value, 60)}, expected True or False"
    kinds = (int, float) if takes_fractions(setting) else (int,)
    if isinstance(value, bool) or not isinstance(value, kinds) or not _is_finite(value):
        kind = "a whole number" if kinds == (int,) else "a number"
        return f"{name}: got {quoted(value, 60)}, expected {kind}"
    low, high = setting.metadata["low"], setting.metadata["high"]
    if value < low:
        return f"{name}: got {value}, expected at least {low}"
    if high is not None and value > high:
        return f"{name}: got {value}, expected at most {high}"
    return None


def takes_fractions(setting: dataclasses.Field[Any]) -> bool:
    """Whether a setting is a number that need not be whole."""
    return str(setting.type).startswith("float")


def guess(name: str, known: Sequence[str]) -> str:
    """A known name that is near to one that is not, as the end of a sentence; or nothing."""
    near = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {near[0]}?" if near else ""


def _is_finite(value: float) -> bool:
    """Whether a number is one that machines count with."""
    return -(1 << 63) < value < 1 << 63 if isinstance(value, int) else math.isfinite(value)


def _is_date(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(datetime.date.fromisoformat(value))
    except ValueError:
        return False


def as_in_json(values: Mapping[str, Any]) -> Any:
    """The values as they come back from a file: lists for tuples, names for keys."""
    return json.loads(json.dumps(dict(values)))


def _problem_of_arguments(value: object) -> str | None:
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
