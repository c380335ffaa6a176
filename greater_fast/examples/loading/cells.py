"""Cells as text: of one value, of a passage in parts, of all gold answers."""

import ast
import json
import numbers
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

_MISSING = ("NAType", "NaTType")
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
# Under which name an object holds its text: SQuAD, TriviaQA, PubMedQA, MuSiQue, chat messages.
_TEXT_KEYS = ("text", "value", "content", "contexts", "stem", "spans", "paragraph_text", "passage")
_OTHER_KEYS = ("aliases",)
_DEEPEST = 8
_ARRAY = re.compile(r"array\((\[(?:(?!array\().)*?\]),\s*dtype=\w+\)", re.DOTALL)
# A text in quotes, or one that does not end, and the space between it and the next one.
_QUOTED = re.compile(
    r"""('(?:[^'\\]|\\.)*(?:'|\Z)|"(?:[^"\\]|\\.)*(?:"|\Z))(\s+(?=['"]))?|\\.""",
    re.DOTALL,
)


def is_missing(value: object) -> bool:
    """Whether a cell has no value, as JSON, pandas and arrow write that."""
    return value is None or _is_nan(value) or type(value).__name__ in _MISSING


def _is_nan(value: object) -> bool:
    """Whether a cell is NaN, alone in not being equal to itself: so pandas writes a missing one."""
    try:
        return isinstance(value, numbers.Number) and value != value
    except ArithmeticError:  # Decimal's signalling NaN may not be compared
        return True


def text_of(value: object) -> str | None:
    """Text of a cell; "" where it is missing, None where it is not of a kind that has a text."""
    if isinstance(value, str):
        if "\r" in value:
            value = value.replace("\r\n", "\n").replace("\r", "\n")
        return value.strip()
    if is_missing(value):
        return ""
    # numpy's truth value is no Number, and not worth an import
    if type(value).__name__ in ("bool", "bool_"):
        return str(value)
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational):
        return _float_text(str(value))
    try:
        return str(value) if isinstance(value, numbers.Number) else None
    except ValueError:  # of more digits than Python writes
        return None


def passage_of(value: object, depth: int = 0) -> str | None:
    """Text of a cell that may come in parts, one a line; None where a part has no text.

    Parts are lists, objects that hold a text, perhaps with a title, and HotpotQA's columns of
    titles and sentences.
    """
    value = as_list(value)
    if isinstance(value, Mapping):
        value = _parts(value)
    if not isinstance(value, list):
        return text_of(value)
    parts = [passage_of(part, depth + 1) for part in value] if depth < _DEEPEST else [None]
    return None if None in parts else "\n".join(part for part in parts if part)


def golds_of(value: object, depth: int = 0) -> tuple[str, ...] | None:
    """All gold answers in a cell, each once; None where something in it has no text.

    A list has several, and so has an object with a text and its aliases (SQuAD, TriviaQA, DROP).
    """
    value = as_list(value)
    if isinstance(value, Mapping):
        keys = (_text_key(value), *_OTHER_KEYS)
        value = [value[key] for key in keys if key in value] or value
    if not isinstance(value, list):
        text = text_of(value)
        return None if text is None else (text,) if text else ()
    golds: dict[str, None] = {}
    for part in value:
        inner = golds_of(part, depth + 1) if depth < _DEEPEST else None
        if inner is None:
            return None
        golds |= dict.fromkeys(inner)
    return tuple(golds)


def literal(text: str) -> object:
    """The list or object that a cell holds as JSON, Python or numpy writes it, else the text."""
    if text[:1] not in ("[", "{"):
        return text
    for parse in (json.loads, _of_python):
        try:
            parsed: object = parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return parsed
    return text


def _of_python(text: str) -> object:
    """What Python's notation says; numpy puts no commas between texts, and names its arrays."""
    return ast.literal_eval(_QUOTED.sub(_with_comma, _ARRAY.sub(r"\1", text)))


def _with_comma(quoted: re.Match[str]) -> str:
    return f"{quoted[1]}, " if quoted[2] else quoted[0]


def _text_key(value: Mapping[Any, Any]) -> str | None:
    return next((key for key in _TEXT_KEYS if key in value), None)


def _parts(value: Mapping[Any, Any]) -> object:
    """The texts in an object, the object itself where it has none that is known."""
    titles, sentences = as_list(value.get("title")), as_list(value.get("sentences"))
    if isinstance(titles, list) and isinstance(sentences, list):
        return [list(pair) for pair in zip(titles, sentences, strict=False)]
    key = "sentences" if "sentences" in value else _text_key(value)
    return value if key is None else [value[part] for part in ("title", key) if part in value]


def is_unicode(text: str) -> bool:
    """Whether UTF-8 has bytes for a text."""
    return text.isascii() or not _HALF_A_PAIR.search(text)


def as_list(value: object) -> object:
    """Tuples and arrays as lists, anything else as it is."""
    if isinstance(value, tuple):
        return list(value)
    # numpy is not worth an import
    return value.tolist() if type(value).__name__ == "ndarray" else value  # type: ignore[attr-defined]


def _float_text(text: str) -> str:
    """A number as a person writes it: 18 for 18.0, no exponent where a few digits do."""
    number = Decimal(text)
    if not number.is_finite() or not (number == 0 or 1e-9 < abs(number) < 1e16):
        return text
    plain = format(abs(number) if number == 0 else number, "f")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain
