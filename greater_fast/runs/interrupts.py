"""Ctrl-C and SIGTERM while a run goes on: one is heard, more do not take the result away."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any


class Terminated(SystemExit):
    """SIGTERM: the process ends, with the status that a shell gives it."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class Signals:
    """Whether those of `numbers` are heard: the first raises, and those behind it do nothing."""

    def __init__(self, numbers: Sequence[signal.Signals]) -> None:
        self._numbers = numbers

    def listen(self) -> None:
        """Hear the next one, whatever was before."""
        for number in self._numbers:
            signal.signal(number, self._first)

    def ignore(self) -> None:
        """Hear none."""
        for number in self._numbers:
            signal.signal(number, lambda number, frame: None)

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Hear one within the block and, however it is left, none behind it."""
        try:
            yield
        finally:
            self.ignore()

    def _first(self, number: int, frame: Any) -> None:
        self.ignore()
        raise _RAISED[signal.Signals(number)]


@contextlib.contextmanager
def one_interrupt() -> Iterator[Signals]:
    """Raise KeyboardInterrupt or Terminated at the first Ctrl-C or SIGTERM, ignore those behind it.

    For who goes on after one, what is yielded listens again. Nothing changes outside the main
    thread, or for a signal that the program has a way of its own with.
    """
    ours = [number for number, plain in _PLAIN.items() if signal.getsignal(number) is plain]
    if threading.current_thread() is not threading.main_thread():
        ours = []
    signals = Signals(ours)
    signals.listen()
    try:
        yield signals
    finally:
        for number in ours:
            signal.signal(number, _PLAIN[number])


_RAISED = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
_PLAIN: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}
