"""When Ctrl-C is heard: later, or not at all. Other threads than the main one never hear it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def interrupts_later() -> Iterator[None]:
    """Keep a Ctrl-C to the end of a block that must not be left halfway."""
    kept: list[Any] = []
    with _taken_by(lambda number, frame: kept.append(frame)) as before:
        yield
    if kept:
        before(signal.SIGINT, kept[0])


@contextlib.contextmanager
def no_interrupts() -> Iterator[None]:
    """Do not hear Ctrl-C within the block."""
    with _taken_by(lambda number, frame: None):
        yield


@contextlib.contextmanager
def _taken_by(handler: Callable[[int, Any], object]) -> Iterator[Callable[..., Any]]:
    """Let a handler take Ctrl-C; the one before is yielded, and put back."""
    before = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not callable(before):
        yield lambda number, frame: None
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield before
    finally:
        signal.signal(signal.SIGINT, before)
