"""When Ctrl-C is heard: later, or not at all. Other threads than the main one never hear it."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Keeper:
    """A handler that keeps what comes; `before` are those that it comes to later."""

    def __init__(self) -> None:
        self.before: dict[int, Callable[..., Any]] = {}
        self.kept: list[tuple[int, Any]] = []
        self.ends_since: float | None = None

    def __call__(self, number: int, frame: Any) -> None:
        self.kept.append((number, frame))
        if self.ends_since is None and self.ends(number):
            self.ends_since = time.monotonic()

    def ends(self, number: int) -> bool:
        """Whether a signal will end the process, as the handler says that it comes to at last."""
        own = self.before.get(number)
        if isinstance(own, _Keeper):
            return own.ends(number)
        return bool(getattr(own, "ends_process", lambda number: False)(number))


_keepers: list[_Keeper] = []  # of all blocks that a thread is in; those of the main one get some


@contextlib.contextmanager
def interrupts_later() -> Iterator[None]:
    """Keep a Ctrl-C to the end of a block that must not be left halfway.

    So with SIGTERM and SIGHUP, where they are heard and do not just end the process. An error in
    the block goes before a Ctrl-C; these two end the process all the same, with it as their cause.
    """
    keeper, error = _Keeper(), None
    with _taken_by(keeper, *_SIGNALS) as keeper.before, _among_keepers(keeper):
        try:
            yield
        except BaseException as raised:
            error = raised
    kept = [one for one in keeper.kept if error is None or one[0] != signal.SIGINT]
    kept.sort(key=lambda one: not keeper.ends(one[0]))  # what ends the process is heard first
    try:
        if kept:
            keeper.before[kept[0][0]](*kept[0])
    except BaseException as ended:
        raise ended from error
    if error is not None:
        raise error


def seconds_to_end() -> float:
    """For how long a signal that will end the process has been kept; 0 where none is."""
    begun = [keeper.ends_since for keeper in _keepers if keeper.ends_since is not None]
    return time.monotonic() - min(begun) if begun else 0.0


@contextlib.contextmanager
def no_interrupts() -> Iterator[None]:
    """Do not hear Ctrl-C within the block."""
    with _taken_by(lambda number, frame: None, signal.SIGINT):
        yield


@contextlib.contextmanager
def _among_keepers(keeper: _Keeper) -> Iterator[None]:
    _keepers.append(keeper)
    try:
        yield
    finally:
        _keepers.remove(keeper)


@contextlib.contextmanager
def _taken_by(
    handler: Callable[[int, Any], object], *numbers: int
) -> Iterator[dict[int, Callable[..., Any]]]:
    """Let a handler take those signals that have one; the ones before are yielded, and put back."""
    found = {number: signal.getsignal(number) for number in numbers}
    before = {number: own for number, own in found.items() if callable(own)}
    if threading.current_thread() is not threading.main_thread():
        before = {}
    try:
        for number in before:
            signal.signal(number, handler)
        yield before
    finally:
        for number, own in before.items():
            signal.signal(number, own)
