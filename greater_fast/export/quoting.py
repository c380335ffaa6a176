"""Texts and values as other languages read them: nothing in a text can end it, or begin anything.

YAML and Jinja both read a text in double quotes, with these escapes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def in_quotes(text: str) -> str:
    """A text in double quotes, all of it printable."""
    return '"' + "".join(map(_escaped, text)) + '"'


def as_jinja(text: str) -> str:
    """A Jinja expression for a text."""
    return f"{{{{{in_quotes(text)}}}}}"


def as_yaml(values: Mapping[str, Any]) -> str:
    """YAML 1.1, a line for each field, of mappings, lists, texts, numbers and truth values.

    Keys are plain words.
    """
    return "".join(f"{name}: {_value(value)}\n" for name, value in values.items())


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    number = ord(character)
    width, mark = (2, "x") if number < 0x100 else (4, "u") if number < 0x10000 else (8, "U")
    return f"\\{mark}{number:0{width}x}"


def _value(value: Any) -> str:
    """A value in YAML's flow style."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_value(own)}" for name, own in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return in_quotes(value) if isinstance(value, str) else json.dumps(value)
