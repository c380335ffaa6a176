"""Text of others as it may be shown: data, models and names of folders never steer a terminal."""

from __future__ import annotations

import traceback

from greater_fast.runs.input import InputError

# Scripts and emoji need the joiners (both are invisible, and move nothing); a line may end.
_HARMLESS = frozenset("\n\t\u200c\u200d\xa0\u202f\u3000")


def visible(text: object) -> str:
    """The text, with characters that cannot be seen (escapes, bidi overrides) as JSON writes them.

    So a line of JSON stays the same JSON.
    """
    return "".join(c if c.isprintable() or c in _HARMLESS else _escape(c) for c in str(text))


def brief(text: str, width: int = 200) -> str:
    """The text, or its beginning and its end where it is longer than `width`."""
    if len(text) <= width:
        return text
    return f"{text[: width // 2]} ... [{len(text):,} characters] ... {text[-width // 4 :]}"


def described(error: BaseException) -> str:
    """An error in one line: its message, after its kind where nobody meant it to be read.

    What is long is cut as it will be shown, where one character can take twelve.
    """
    try:
        message = brief(visible(" ".join(str(error).split())), 2000)
    except Exception:  # of somebody else's class, whose text cannot be made
        message = ""
    if message and isinstance(error, InputError | FloatingPointError | MemoryError):
        return message
    kind = visible(type(error).__name__)
    return f"{kind}: {message}" if message else kind


def with_traceback(error: BaseException) -> str:
    """An error with all its frames and notes, as Python prints it."""
    return visible("".join(traceback.format_exception(error)))


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
