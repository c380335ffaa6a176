"""How messages show what they were given: in short, and with nothing that no terminal can take."""

from __future__ import annotations

from collections.abc import Callable, Iterable

_NUM_NAMED = 8


def printable(text: str) -> str:
    """The text without what a terminal or UTF-8 cannot take: control marks, halves of surrogates.

    Line breaks are kept, as our own messages and templates have them.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def shortened(value: object, length: int = 60) -> str:
    """A value on one printable line of at most so many characters."""
    text = value if isinstance(value, str) else _written(value, str)
    line = printable(text[: length + 1]).replace("\n", "\\n")
    return line if len(line) <= length else f"{line[: length - 1]}…"


def quoted(value: object, length: int = 80) -> str:
    """A value as Python writes it, in quotes where it is a text, on such a line."""
    if not isinstance(value, str):
        return shortened(_written(value, repr), length)
    text = repr(value[:length])
    return text if len(text) <= length else f"{text[: length - 2]}…{text[0]}"


def in_one_line(error: object, length: int = 300) -> str:
    """What an error of somebody else's says, its line breaks and runs of spaces aside."""
    return shortened(" ".join(_written(error, str).split()), length)


def listed(names: Iterable[object], most: int = _NUM_NAMED) -> str:
    """Names for a reader: a few of them, and how many more there are; "(none)" if none."""
    every = list(names)
    named = [shortened(name) or "(unnamed)" for name in every[:most]]
    more = [f"… and {len(every) - most} more"] if len(every) > most else []
    return ", ".join(named + more) or "(none)"


def numbered(names: Iterable[str]) -> list[str]:
    """The names; one that comes again has its number behind it."""
    every = list(names)
    counts = [every[: place + 1].count(name) for place, name in enumerate(every)]
    return [n if count == 1 else f"{n} ({count})" for n, count in zip(every, counts, strict=True)]


def _written(value: object, write: Callable[[object], str]) -> str:
    try:
        return write(value)
    except Exception:  # nested too deep, too many digits, or of a class of the user's own
        return f"<{type(value).__name__}>"
