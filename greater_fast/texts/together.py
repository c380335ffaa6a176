"""Callers of several threads, served in one batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from greater_fast.engine import Engine
from greater_fast.texts.generation import Generated, generate

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Found = TypeVar("Found")
_SECONDS = 0.005  # that the first caller waits for others: a step of a batch takes about as long


def _wait() -> None:
    time.sleep(_SECONDS)


class Together(Generic[Key, Item, Found]):
    """Serves the items of calls that come at the same time as one batch, whatever their threads.

    The first caller waits a little, and while an earlier batch is served; then it serves all that
    have come until then, and the others get theirs from it. Items of calls with the same key are
    served at once. Where that fails, each call is served alone, so that it gets its own error.

    Args:
        serve: called with a key and items, by one thread at a time; returns what was found for each
            of the items, in their order.
        wait: called by the first caller, to give others time.
    """

    def __init__(
        self,
        serve: Callable[[Key, Sequence[Item]], Sequence[Found]],
        wait: Callable[[], object] = _wait,
    ) -> None:
        self._serve, self._wait = serve, wait
        self._waiting: list[_Call[Key, Item, Found]] = []
        self._list_lock, self._serving = threading.Lock(), threading.Lock()

    def __call__(self, key: Key, items: Sequence[Item]) -> list[Found]:
        """What is found for the items; raises what serving them raised."""
        call = _Call[Key, Item, Found](key, items)
        with self._list_lock:
            is_first = not self._waiting
            self._waiting.append(call)
        if is_first:
            self._lead()
        else:
            call.is_done.wait()
        return call.outcome()

    def _lead(self) -> None:
        """Serve this call and all others that wait with it; none of them waits for ever."""
        calls: list[_Call[Key, Item, Found]] = []
        try:
            self._wait()
            with self._serving:
                calls = self._taken()
                for key in dict.fromkeys(call.key for call in calls):
                    self._serve_calls(key, [call for call in calls if call.key == key])
        except BaseException:  # Ctrl-C, say: it is for this thread alone
            for call in calls or self._taken():
                call.fail(RuntimeError("the call that this one was served with was interrupted"))
            raise

    def _taken(self) -> list[_Call[Key, Item, Found]]:
        with self._list_lock:
            calls, self._waiting = self._waiting, []
        return calls

    def _serve_calls(self, key: Key, calls: Sequence[_Call[Key, Item, Found]]) -> None:
        items = [item for call in calls for item in call.items]
        try:
            found = list(self._serve(key, items))
        except Exception as error:
            if len(calls) == 1:
                calls[0].fail(error)
                return
            for call in calls:
                self._serve_calls(key, [call])
            return
        rest = iter(found)
        for call in calls:
            call.finish([next(rest) for _ in call.items])


class _Call(Generic[Key, Item, Found]):
    """What one caller asks for, and what became of it."""

    def __init__(self, key: Key, items: Sequence[Item]) -> None:
        self.key, self.items = key, list(items)
        self.is_done = threading.Event()
        self._found: list[Found] = []
        self._error: Exception | None = None

    def finish(self, found: list[Found]) -> None:
        self._found = found
        self.is_done.set()

    def fail(self, error: Exception) -> None:
        """End with an error, unless it has ended."""
        if not self.is_done.is_set():
            self._error = error
            self.is_done.set()

    def outcome(self) -> list[Found]:
        if self._error is not None:
            raise self._error
        return self._found


class SharedGeneration:
    """`generate` for many threads: what they ask for at the same time is one batch.

    `wait` gives others time to come, as of `Together`.
    """

    def __init__(self, engine: Engine, wait: Callable[[], object] = _wait) -> None:
        self.engine = engine
        self._together = Together(self._serve, wait)

    def __call__(
        self, texts: Sequence[str], max_new_tokens: int, stop_texts: Sequence[str] = ()
    ) -> list[Generated]:
        """What the model writes behind each text; arguments and errors as of `generate`."""
        return self._together((max_new_tokens, tuple(stop_texts)), texts)

    def _serve(self, key: tuple[int, tuple[str, ...]], texts: Sequence[str]) -> list[Generated]:
        max_new_tokens, stop_texts = key
        return generate(self.engine, texts, max_new_tokens, stop_texts)
