"""Rows asked for by a few threads at a time, and heard of by the one that wants them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from greater_fast.front_ends.endpoint.client import StoppedError

Found = TypeVar("Found")


class _Failed(NamedTuple):
    error: BaseException


def in_threads(
    rows: Sequence[int],
    ask: Callable[[int], Found],
    heard: Callable[[int, Found], object],
    num_threads: int,
    stop: threading.Event,
) -> None:
    """Call `ask` for each row in up to so many threads, and here `heard` with what each came to.

    After the first error, of either, no row is begun; those under way are heard of, then it is
    raised. Where an interruption ends this call, `stop` is set: threads then end without being
    waited for.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Found] | _Failed | None] = queue.SimpleQueue()
    failed = threading.Event()
    for row in rows:
        waiting.put(row)

    def work() -> None:
        try:
            while not (stop.is_set() or failed.is_set()):
                row = waiting.get_nowait()
                done.put((row, ask(row)))
        except (queue.Empty, StoppedError):
            pass
        except BaseException as error:
            failed.set()
            done.put(_Failed(error))
        done.put(None)

    num_working = min(num_threads, len(rows))
    first: BaseException | None = None
    try:
        for _ in range(num_working):
            threading.Thread(target=work, daemon=True).start()
        while num_working:
            item = done.get()
            if item is None:
                num_working -= 1
            elif isinstance(item, _Failed):
                first = first or item.error
            else:
                try:
                    heard(*item)
                except Exception as error:
                    failed.set()
                    first = first or error
    except BaseException:
        stop.set()
        raise
    if first is not None:
        raise first
