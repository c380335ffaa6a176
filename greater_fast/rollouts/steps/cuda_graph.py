"""Capture of a step's GPU work in a CUDA graph, where that can be had and does the same work."""

from __future__ import annotations

import gc
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from greater_fast.model.checks import said
from greater_fast.ranks import ALONE, Ranks

# A process captures one graph at a time, and has one sync debug mode.
_ONE_AT_A_TIME = threading.Lock()


class Captured(NamedTuple):
    """A graph of some work, or the reason why there is none; neither away from a GPU.

    `pool_bytes` is memory that the graph keeps to itself as long as it lives.
    """

    graph: torch.cuda.CUDAGraph | None = None
    reason: str | None = None
    pool_bytes: int = 0


def capture(
    launch: Callable[[], None],
    device: torch.device,
    outputs: Sequence[torch.Tensor],
    ranks: Ranks = ALONE,
) -> Captured:
    """A graph that does again what `launch` does: tried, not assumed.

    `launch` must always do the same to the same memory. It is run a few times, to compile its
    kernels and to see whether it waits for the GPU; the last time is the one that is captured, so
    what it then leaves in Python objects is the graph's. `outputs` is the memory that it writes and
    that is read afterwards: one replay must leave there what `launch` does, bit for bit. Of ranks
    whose launches wait for each other, all have a graph or none.

    The stream is one of all captures on the device: torch's own belongs to the device of the first
    one of a process, and records nothing of another's work. While it is seen whether the work
    waits, torch's sync debug mode, one for all threads of a process, is "error": for that one
    launch, waiting for a GPU in another thread is an error there.

    Raises:
        Exception: whatever `launch` raises when it is simply run.
    """
    if device.type != "cuda":
        return Captured()
    with _ONE_AT_A_TIME, torch.cuda.device(device):
        current, side = torch.cuda.current_stream(), _side_stream(device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            found = _capture(launch, side, outputs, ranks)
        current.wait_stream(side)
        torch.cuda.synchronize()  # a GPU that an attempt has left in no order says so here
    return found


@cache
def _side_stream(_: torch.device) -> torch.cuda.Stream:
    """A device's stream for captures: cuBLAS keeps a workspace for each stream that it has seen."""
    return torch.cuda.Stream()


def _capture(
    launch: Callable[[], None],
    side: torch.cuda.Stream,
    outputs: Sequence[torch.Tensor],
    ranks: Ranks,
) -> Captured:
    launched = [_bits_left_by(launch, outputs) for _ in range(2)]
    reason = _first_reason(ranks, _why_it_waits(launch))
    if reason:
        return Captured(reason=reason)
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    torch.cuda.empty_cache()
    reserved_bytes = torch.cuda.memory_reserved()
    try:
        with (
            _no_garbage_collection(),
            torch.cuda.graph(graph, pool, side, capture_error_mode="thread_local"),
        ):
            launch()
    except Exception as error:  # whatever a library says of what no graph can hold
        reason = _why_it_ended(error)
        _end_allocation(side, pool)
    reason = _first_reason(ranks, reason)
    if reason:
        return Captured(reason=reason)
    pool_bytes = max(torch.cuda.memory_reserved() - reserved_bytes, 0)
    replayed = _bits_left_by(graph.replay, outputs)
    if _equal(*launched) and not _equal(replayed, launched[0]):
        reason = "a replay gives other bits than the same work without a graph"
    # Where bits differ from launch to launch anyway, a replay has at least done something.
    elif not any(map(_is_written, replayed)):
        reason = "a replay does nothing"
    reason = _first_reason(ranks, reason)
    return Captured(reason=reason) if reason else Captured(graph, None, pool_bytes)


def _first_reason(ranks: Ranks, own: str | None) -> str | None:
    """Why one of the ranks can have no graph; None where all can."""
    return next(filter(None, ranks.gathered(own)), None)


def _why_it_ended(error: Exception) -> str:
    """What ended a capture, in words: the error, kept, would keep the capture's memory."""
    cause = error.__context__  # the end of a capture that has failed fails too
    return f"its capture ended in {said(cause if isinstance(cause, Exception) else error)}"


def _end_allocation(side: torch.cuda.Stream, pool: Any) -> None:
    """Have torch's allocator forget a capture that has failed.

    Before 2.12 torch does not do so itself where the end of the capture fails, and never frees what
    it caches again: it takes the capture to be under way.
    """
    with suppress(RuntimeError):  # it knows of no such capture
        torch._C._cuda_endAllocateToPool(side.device_index, pool)


def _why_it_waits(launch: Callable[[], None]) -> str | None:
    """Where the host would wait for results of the work, or None if it never does."""
    with warnings.catch_warnings():
        # torch says once that the mode is a prototype; where warnings are errors, that raises after
        # the mode has been set.
        warnings.filterwarnings("ignore", "Synchronization debug mode")
        mode = torch.cuda.get_sync_debug_mode()
        try:
            torch.cuda.set_sync_debug_mode("error")
            launch()
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            *_, frame = traceback.extract_tb(error.__traceback__)
            return f"it waits for the GPU ({Path(frame.filename).name}, line {frame.lineno})"
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    return None


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Within, none starts: a graph of somebody's that it finds is freed, which ends a capture."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _bits_left_by(work: Callable[[], None], outputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The bytes of the outputs after some work, which finds them all set to 255."""
    for tensor in outputs:
        tensor.view(torch.uint8).fill_(255)
    work()
    return [
        torch.clone(x, memory_format=torch.contiguous_format).view(torch.uint8) for x in outputs
    ]


def _equal(some: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    return all(map(torch.equal, some, others))


def _is_written(output: torch.Tensor) -> bool:
    return bool((output != 255).any())
