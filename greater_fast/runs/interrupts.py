"""Ctrl-C while a run goes on: once is heard, more do not take the result away."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def one_interrupt() -> Iterator[Callable[[], None]]:
    """Raise KeyboardInterrupt at the first Ctrl-C, and ignore those that follow it.

    For who goes on after one, what is yielded listens again. Nothing changes outside the main
    thread, or where the program has a way of its own with Ctrl-C.
    """
    plain = signal.default_int_handler
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGINT) is not plain:
        yield lambda: None
        return

    def first(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, lambda number, frame: None)
        raise KeyboardInterrupt

    def listen() -> None:
        signal.signal(signal.SIGINT, first)

    listen()
    try:
        yield listen
    finally:
        signal.signal(signal.SIGINT, plain)
