"""What a step costs: seconds a stage, tokens generated, peak memory."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from greater_fast.search.ensemble import Models


class Meter:
    """Measures one step; stages are entered one after the other."""

    def __init__(self, models: Models) -> None:
        self._models, self._device = models, models.lm.device
        self._tokens_before = models.num_generated_tokens
        self._seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a stage, with the GPU's work in it."""
        begun = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._seconds[stage] = time.perf_counter() - begun

    def readings(self) -> dict[str, Any]:
        """The fields of `Step` that say what it cost: `WORK_FIELDS`."""
        return {
            "num_generated_tokens": self._models.num_generated_tokens - self._tokens_before,
            "seconds": {stage: round(s, 4) for stage, s in self._seconds.items()},
            "peak_memory_bytes": peak_memory_bytes(self._device),
        }


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory used so far: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
