"""A clock for pytest-benchmark that counts measured seconds, not those of starting processes."""

from collections.abc import Callable
from typing import Protocol, TypeVar


class Timed(Protocol):
    """Whatever says how long it took."""

    @property
    def seconds(self) -> float:
        """Seconds measured."""


Measured = TypeVar("Measured", bound=Timed)


class Clock:
    """Stands still but for what is added to it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        """Seconds so far."""
        return self.seconds

    def run(self, measure: Callable[..., Measured], *arguments: object) -> Measured:
        """Measure, and go on by the seconds that came out."""
        measured = measure(*arguments)
        self.seconds += measured.seconds
        return measured


CLOCK = Clock()
