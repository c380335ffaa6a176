"""Ctrl-C and SIGTERM while a run goes on: one is heard, more do not take the result away."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Terminated(SystemExit):
    """SIGTERM: the process ends, with the status that a shell gives it."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


@contextlib.contextmanager
def one_interrupt() -> Iterator[Callable[[], None]]:
    """Raise KeyboardInterrupt or Terminated at the first Ctrl-C or SIGTERM, ignore those behind it.

    For who goes on after one, what is yielded listens again. Nothing changes outside the main
    thread, or for a signal that the program has a way of its own with.
    """
    raised = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
    plain: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    ours = [number for number in raised if signal.getsignal(number) is plain[number]]
    if threading.current_thread() is not threading.main_thread():
        ours = []

    def first(number: int, frame: Any) -> None:
        for other in ours:
            signal.signal(other, lambda number, frame: None)
        raise raised[signal.Signals(number)]

    def listen() -> None:
        for number in ours:
            signal.signal(number, first)

    listen()
    try:
        yield listen
    finally:
        for number in ours:
            signal.signal(number, plain[number])
