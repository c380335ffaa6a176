"""The one form of an error for data that cannot be used."""

from collections.abc import Iterable
from os import PathLike

_NUM_NAMED = 8


def bad_data(name: str, got: str, expected: str, advice: str) -> ValueError:
    """The error for data that cannot be used, in the form of all our errors."""
    return ValueError(printable(f"{name}: got {got}; expected {expected}; {advice}"))


def source_name(source: object) -> str:
    """Name a data source as error messages and reports should call it."""
    if not isinstance(source, str | PathLike):
        return f"the {type(source).__name__}"
    return shortened(source, 200)


def printable(text: str) -> str:
    """The text without what a terminal or UTF-8 cannot take: control marks, halves of surrogates.

    Line breaks are kept, as our own messages and templates have them.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def shortened(value: object, length: int = 60) -> str:
    """A value on one printable line of at most so many characters."""
    text = str(value)
    cut = text if len(text) <= length else f"{text[: length - 1]}…"
    return printable(cut).replace("\n", "\\n")


def listed(names: Iterable[object]) -> str:
    """Names for a reader: a few of them, and how many more there are; "(none)" if none."""
    every = list(names)
    named = [shortened(name) or "(unnamed)" for name in every[:_NUM_NAMED]]
    more = [f"… and {len(every) - _NUM_NAMED} more"] if len(every) > _NUM_NAMED else []
    return ", ".join(named + more) or "(none)"
