"""Callers of several threads, served in one batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from greater_fast.engine import Engine
from greater_fast.texts.generation import Asked, Generated, generate_numbered

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Found = TypeVar("Found")
_PATIENCE = 1.0  # seconds after which a caller looks whether anybody serves at all
_SECONDS = 0.005  # that the first caller waits for others: a step of a batch takes about as long


def _wait() -> None:
    time.sleep(_SECONDS)


class Together(Generic[Key, Item, Found]):
    """Serves the items of calls that come at the same time as one batch, whatever their threads.

    The first caller waits a little, and while an earlier batch is served; then it serves all that
    have come until then, and the others get theirs from it. Items of calls with the same key are
    served at once. Where that fails, each call is served alone, so that it gets its own error.
    Where the one that serves is interrupted, wherever it is, another caller takes over.

    Args:
        serve: called with a key and items, by one thread at a time; returns what was found for each
            of the items, in their order.
        wait: called by the caller that serves, to give others time.
    """

    def __init__(
        self,
        serve: Callable[[Key, Sequence[Item]], Sequence[Found]],
        wait: Callable[[], object] = _wait,
    ) -> None:
        self._serve, self._wait = serve, wait
        self._waiting: list[_Call[Key, Item, Found]] = []  # until they have ended
        self._list_lock, self._serving = threading.Lock(), threading.Lock()

    def __call__(self, key: Key, items: Sequence[Item]) -> list[Found]:
        """What is found for the items; raises what serving them raised."""
        call = _Call[Key, Item, Found](key, items)
        with self._list_lock:
            self._waiting.append(call)
        try:
            while not call.has_ended:
                if self._serving.locked():
                    call.news.wait(_PATIENCE)
                    call.news.clear()
                    continue
                # A `with`, since Ctrl-C may come between `acquire` and what would release.
                with self._serving:
                    if not call.has_ended:
                        self._wait()
                        self._serve_waiting()
        finally:
            call.has_ended = True  # one that was interrupted waits no more
            self._call_next()
        return call.outcome()

    def _serve_waiting(self) -> None:
        """Serve all calls that wait; those that an interrupt leaves go on waiting."""
        with self._list_lock:
            calls = [call for call in self._waiting if not call.has_ended]
        for key in dict.fromkeys(call.key for call in calls):
            self._serve_calls(key, [call for call in calls if call.key == key])

    def _call_next(self) -> None:
        """Let the first that still waits look whether it is to serve."""
        with self._list_lock:
            self._waiting = [call for call in self._waiting if not call.has_ended]
            if self._waiting:
                self._waiting[0].news.set()

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
    """What one caller asks for, and what became of it; `news` wakes the caller."""

    def __init__(self, key: Key, items: Sequence[Item]) -> None:
        self.key, self.items = key, list(items)
        self.news, self.has_ended = threading.Event(), False
        self._found: list[Found] = []
        self._error: Exception | None = None

    def finish(self, found: list[Found]) -> None:
        self._found = found
        self._end()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._end()

    def _end(self) -> None:
        self.has_ended = True
        self.news.set()

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
        self,
        texts: Sequence[str],
        max_new_tokens: int,
        stop_texts: Sequence[str] = (),
        *,
        special_tokens: bool | None = None,
    ) -> list[Generated]:
        """What the model writes behind each text; arguments and errors as of `generate`.

        Where the engine samples, it is what `generate` writes too, whoever else calls.
        """
        asked = Asked.of(self.engine.lm, texts, max_new_tokens, stop_texts, special_tokens)
        return self._together(asked, list(enumerate(texts)))

    def _serve(self, asked: Asked, texts: Sequence[tuple[int, str]]) -> list[Generated]:
        return generate_numbered(self.engine, texts, asked)
