"""Signals that end a run: the first is heard where nothing is lost, a second one stops at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

# Seconds: `timeout`, a scheduler and a launcher send one to a process, and again to its group.
_TOGETHER = 0.5
_AGAIN = 0.1  # seconds after which one is sent again that Python has dropped


class Terminated(SystemExit):
    """A signal that ends the process, with the status that a shell gives it: 128 + its number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


class Signals:
    """Ctrl-C raises KeyboardInterrupt where it comes, SIGTERM and SIGHUP raise Terminated.

    Those that come within half a second of the first are one with it.
    """

    def __init__(self) -> None:
        self._first: float | None = None  # when it came
        self._keeps_first = False
        self._kept: Terminated | None = None
        self._note: str | None = None

    def hear_anew(self) -> None:
        """Take the next one for the first, whatever was before."""
        self._first = None

    def leave(self, note: str) -> None:
        """Note on each error from here on what there is already: the work is done by then."""
        self._note = note
        if self._kept is not None:
            self._kept.add_note(note)

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Work that a signal stops; behind it, what was found is written, and only a second does.

        Of a first one that comes then Terminated is raised where `signals_heard` ends, and Ctrl-C
        has nothing left to stop.
        """
        try:
            yield
        finally:
            self._keeps_first = True

    def end(self) -> None:
        """Raise what was kept, and keep no other."""
        kept, self._kept, self._keeps_first = self._kept, None, False
        if kept is not None:
            raise kept

    def ends_process(self, number: int) -> bool:
        """Whether this one ends the process, sooner or later; Ctrl-C may stop some work alone."""
        return number != signal.SIGINT

    def __call__(self, number: int, frame: Any) -> None:
        """One came."""
        now, first = time.monotonic(), self._first
        if first is not None and now - first < _TOGETHER:
            return
        error = KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)
        if self._note is not None:
            error.add_note(self._note)
        if first is None:
            self._first = now
            if self._keeps_first:
                self._kept = error if isinstance(error, Terminated) else None
                return
        raise error


@contextlib.contextmanager
def signals_heard() -> Iterator[Signals]:
    """Let a signal that ends the process raise an error; within another such block, as that does.

    One that comes in a callback or a `__del__`, where Python drops all errors, is raised behind it.
    Nothing changes where `signals_taken` takes none.
    """
    found = [h for n in _PLAIN if isinstance(h := signal.getsignal(n), Signals)]
    # That of the main thread is none of another's, which no signal comes to.
    is_main = threading.current_thread() is threading.main_thread()
    signals = found[0] if found and is_main else Signals()
    sent_again = _dropped_ones_sent_again(signals) if is_main else contextlib.nullcontext()
    with signals_taken(signals), sent_again:
        try:
            yield signals
        except BaseException:
            with contextlib.suppress(Terminated):  # what is under way ends the process, too
                signals.end()
            raise
        signals.end()


@contextlib.contextmanager
def signals_taken(handler: Callable[[int, Any], object]) -> Iterator[None]:
    """Let a handler take Ctrl-C, SIGTERM and SIGHUP, and give them back.

    Not outside the main thread, nor one that the program has a way of its own with, or ignores
    (nohup).
    """
    ours = [number for number, plain in _PLAIN.items() if signal.getsignal(number) is plain]
    if threading.current_thread() is not threading.main_thread():
        ours = []
    try:
        for number in ours:
            signal.signal(number, handler)
        yield
    finally:
        for number in ours:
            signal.signal(number, _PLAIN[number])


def end_at_once(number: int, frame: Any) -> None:
    """End without a traceback, on a signal that comes during imports: they lose nothing."""
    how = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    with contextlib.suppress(OSError):
        os.write(2, f"greater-fast: {how} at the start\n".encode())
    os._exit(128 + number)


@contextlib.contextmanager
def _dropped_ones_sent_again(signals: Signals) -> Iterator[None]:
    """Have a signal whose error was dropped come once more: an import has many callbacks."""
    before = sys.unraisablehook

    def hook(dropped: sys.UnraisableHookArgs) -> None:
        error = dropped.exc_value
        if not isinstance(error, KeyboardInterrupt | Terminated):
            before(dropped)
            return
        number = signal.Signals[error.name] if isinstance(error, Terminated) else signal.SIGINT
        signals.hear_anew()
        again = threading.Timer(_AGAIN, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


_PLAIN: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}
