"""Ranks that are threads of one process, for what needs no model."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from greater_fast.ranks import Ranks

T = TypeVar("T")


class ThreadRanks(Ranks):
    """One of several threads, which exchange values by a list."""

    def __init__(self, rank: int, values: list[Any], barrier: threading.Barrier) -> None:
        super().__init__(rank, len(values))
        self._values, self._barrier = values, barrier

    def gathered(self, value: T) -> list[T]:
        if self.size == 1:
            return [value]
        self._values[self.rank] = value
        self._barrier.wait(120)
        found = list(self._values)
        self._barrier.wait(120)
        return found

    def gathered_rows(self, rows: torch.Tensor) -> list[torch.Tensor]:
        return self.gathered(rows)


def on_threads(size: int, run: Callable[[Ranks], T]) -> list[T]:
    """What a function gives on each rank."""
    values: list[Any] = [None] * size
    barrier = threading.Barrier(size)
    found: dict[int, T] = {}
    errors: list[BaseException] = []

    def one(rank: int) -> None:
        try:
            found[rank] = run(ThreadRanks(rank, values, barrier))
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [found[rank] for rank in range(size)]
