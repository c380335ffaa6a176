"""What the C library does with large blocks that are freed."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

import torch

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
_LARGE, _GLIBC_LARGEST = 1 << 16, 1 << 25  # bytes


@contextlib.contextmanager
def large_blocks_returned(device: torch.device) -> Iterator[None]:
    """Give large blocks back to the system as they are freed, not to a heap with holes.

    Where much is kept among much that is freed, as by a gradient pass on a CPU, glibc's heap grew
    to 1.4 times what was in use, and to over three times where layers are computed twice (SmolLM2,
    1,024 tokens). Other C libraries have no such setting, and a GPU's memory is not malloc's.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if device.type == "cpu" else None
    if mallopt is None:
        yield
        return
    mallopt(_MMAP_THRESHOLD, _LARGE)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, _GLIBC_LARGEST)  # where glibc's own rule ends up
