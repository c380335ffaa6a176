"""Capture of a step's GPU work in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch


def capture(launch: Callable[[], None], device: torch.device) -> torch.cuda.CUDAGraph | None:
    """A graph that does again what `launch` does, or None where `launch` waits for the GPU.

    `launch` must always do the same to the same memory; it is run twice before it is captured, to
    compile its kernels and to see whether it waits.
    """
    with torch.cuda.device(device):
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            launch()
            never_waits = _never_waits(launch)
        current.wait_stream(side)
        torch.cuda.synchronize()
        if not never_waits:
            return None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            launch()
    return graph


def _never_waits(launch: Callable[[], None]) -> bool:
    """Whether work can be launched without the host ever waiting for its results."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        launch()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return False
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    return True
