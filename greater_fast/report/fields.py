"""Values out of a JSON object that somebody else wrote: of the type asked for, or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST = 1e100  # beyond it a plot overflows, as NaN and infinity do


class Fields:
    """A JSON object read by type. What is missing, or of another type, is None or empty.

    So a file that is damaged, or of another version, shows what it has.
    """

    def __init__(self, values: object) -> None:
        self.values: Mapping[str, Any] = values if isinstance(values, Mapping) else {}

    def __bool__(self) -> bool:
        return bool(self.values)

    def text(self, name: str) -> str | None:
        """A text."""
        value = self.values.get(name)
        return value if isinstance(value, str) else None

    def number(self, name: str) -> float | None:
        """A finite number of a sensible size; a truth value is none."""
        return as_number(self.values.get(name))

    def count(self, name: str) -> int | None:
        """A whole number, 0 or more."""
        value = self.number(name)
        return int(value) if value is not None and value >= 0 and value == int(value) else None

    def count_in(self, name: str, index: int | None) -> int | None:
        """The whole number in a place of a list; None where the list has no such place."""
        every = self._list(name)
        if index is None or index >= len(every):
            return None
        return Fields({name: every[index]}).count(name)

    def counts(self, name: str) -> tuple[int, ...] | None:
        """The whole numbers of a list; None where there is no such list, or it has others."""
        own = self._list(name)
        found = [Fields({name: value}).count(name) for value in own]
        known = tuple(value for value in found if value is not None)
        return known if own and len(known) == len(own) else None

    def flag(self, name: str) -> bool:
        """Whether it is true."""
        return self.values.get(name) is True

    def object(self, name: str) -> Fields:
        """An object in it."""
        return Fields(self.values.get(name))

    def objects(self, name: str) -> list[Fields]:
        """The objects of a list."""
        return [Fields(value) for value in self._list(name) if isinstance(value, Mapping)]

    def texts(self, name: str) -> list[str]:
        """The texts of a list, or a text that stands alone."""
        alone = self.text(name)
        return [v for v in self._list(name) if isinstance(v, str)] if alone is None else [alone]

    def numbers(self, name: str) -> dict[str, float]:
        """The numbers of an object, by their names."""
        pairs = ((key, as_number(value)) for key, value in self.object(name).values.items())
        return {key: value for key, value in pairs if value is not None}

    def interval(self, name: str) -> tuple[float, float] | None:
        """Two numbers, the lower one first."""
        ends = [as_number(value) for value in self._list(name)]
        if len(ends) != 2 or ends[0] is None or ends[1] is None or ends[0] > ends[1]:
            return None
        return ends[0], ends[1]

    def _list(self, name: str) -> list[Any]:
        value = self.values.get(name)
        return list(value) if isinstance(value, list | tuple) else []


def as_number(value: object) -> float | None:
    """A number of a size that a run may have, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if abs(number) < _MOST else None
