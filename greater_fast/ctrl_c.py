"""When Ctrl-C is heard: later, or not at all. Other threads than the main one never hear it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Kept(NamedTuple):
    """A signal that came, and where."""

    number: int
    frame: Any


@contextlib.contextmanager
def interrupts_later() -> Iterator[list[Kept]]:
    """Keep a Ctrl-C to the end of a block that must not be left halfway; what was kept so far.

    So with SIGTERM and SIGHUP, where they are heard and do not just end the process. An error in
    the block goes before a Ctrl-C; these two end the process all the same, with it as their cause.
    """
    kept: list[Kept] = []
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    with _taken_by(lambda number, frame: kept.append(Kept(number, frame)), *signals) as before:
        error = None
        try:
            yield kept
        except BaseException as raised:
            error = raised
    if error is not None:
        kept = [one for one in kept if one.number != signal.SIGINT]
    try:
        if kept:
            before[kept[0].number](*kept[0])
    except BaseException as ended:
        raise ended from error
    if error is not None:
        raise error


@contextlib.contextmanager
def no_interrupts() -> Iterator[None]:
    """Do not hear Ctrl-C within the block."""
    with _taken_by(lambda number, frame: None, signal.SIGINT):
        yield


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
