"""As much of torch.cuda as a capture needs, without a GPU: it behaves as torch's does."""

import gc
import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from greater_fast.rollouts.steps import cuda_graph

PROTOTYPE = "Synchronization debug mode is a prototype feature and does not yet detect all"


def wait_for_gpu() -> None:
    """What `.item()` of a tensor on a GPU does."""
    if torch.cuda.get_sync_debug_mode() == 2:
        raise RuntimeError("called a synchronizing CUDA operation")


class FakeStream:
    def __init__(self, device: Any) -> None:
        self.device = device
        self.device_index = torch.device(device).index

    def wait_stream(self, _: Any) -> None:
        pass


class FakeGraph:
    """Its replay does what `replays` does."""

    def __init__(self, replays: Callable[[], None]) -> None:
        self.replay = replays


class FakeCUDA:
    """Stands in for torch.cuda within a test. Work runs on the CPU, also while it is captured.

    `replays` is what graphs do; `breaks` raises in a capture what no graph can hold; the private
    pool of a graph takes `pool_bytes`. As of torch before 2.12, the allocator takes a capture that
    has failed to be `under_way`, until it is told otherwise, and then frees no cache.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.replays: Callable[[], None] = lambda: None
        self.breaks = False
        self.pool_bytes = 0
        self.mode, self.has_warned = 1, False
        self.reserved = 100
        self.devices: list[Any] = ["cuda:0"]
        self.now = self.default = FakeStream("cuda:0")
        self.captures: list[dict[str, Any]] = []
        self.under_way: list[Any] = []
        self.ends_itself = False  # as torch from 2.12 on
        cuda_graph._side_stream.cache_clear()
        for name in (
            *("device", "stream", "graph", "get_sync_debug_mode", "set_sync_debug_mode"),
            *("current_stream", "memory_reserved", "empty_cache"),
        ):
            patch.setattr(torch.cuda, name, getattr(self, name))
        patch.setattr(torch.cuda, "Stream", lambda: FakeStream(self.devices[-1]))
        patch.setattr(torch.cuda, "CUDAGraph", lambda: FakeGraph(lambda: self.replays()))
        patch.setattr(torch.cuda, "synchronize", lambda: None)
        handles = itertools.count(1)
        patch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, next(handles)))
        patch.setattr(torch._C, "_cuda_endAllocateToPool", self.end_allocation, raising=False)

    @contextmanager
    def device(self, device: Any) -> Iterator[None]:
        self.devices.append(device)
        yield
        self.devices.pop()

    def current_stream(self) -> FakeStream:
        return self.now

    def memory_reserved(self) -> int:
        return self.reserved

    def empty_cache(self) -> None:
        if self.under_way:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    def end_allocation(self, device: int, pool: Any) -> None:
        if (device, pool) not in self.under_way:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.under_way.remove((device, pool))

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before, self.now = self.now, stream
        try:
            yield
        finally:
            self.now = before

    @contextmanager
    def graph(
        self, graph: Any, pool: Any, stream: FakeStream, capture_error_mode: str
    ) -> Iterator[None]:
        self.captures.append(
            {"stream": stream, "mode": capture_error_mode, "collects": gc.isenabled()}
        )
        before, self.now = self.now, stream
        self.under_way.append((stream.device_index, pool))
        try:
            yield
            if self.breaks:
                raise RuntimeError("operation not permitted when stream is capturing")
        except BaseException:
            if self.ends_itself:
                self.under_way.pop()
            # As torch does: the end of such a capture raises, before the stream is set back.
            raise RuntimeError("operation failed due to a previous error") from None
        self.under_way.pop()
        self.reserved += self.pool_bytes
        self.now = before

    def get_sync_debug_mode(self) -> int:
        return self.mode

    def set_sync_debug_mode(self, mode: int | str) -> None:
        self.mode = {"default": 0, "warn": 1, "error": 2}.get(str(mode), mode)  # type: ignore[assignment]
        if not self.has_warned:
            self.has_warned = True
            warnings.warn(PROTOTYPE, UserWarning, stacklevel=2)
