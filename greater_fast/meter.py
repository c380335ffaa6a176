"""What a step costs: seconds a stage, tokens generated, peak memory."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from greater_fast.rollout import Engine


class Meter:
    """Measures one step; stages are entered one after the other."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tokens_before = engine.num_generated_tokens
        self._seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a stage, with the GPU's work in it."""
        begun = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._seconds[stage] = time.perf_counter() - begun

    def readings(self) -> dict[str, Any]:
        """The fields of `Step` that say what it cost."""
        return {
            "num_generated_tokens": self._engine.num_generated_tokens - self._tokens_before,
            "seconds": {stage: round(s, 4) for stage, s in self._seconds.items()},
            "peak_memory_bytes": peak_memory_bytes(),
        }


def peak_memory_bytes() -> int:
    """Most memory used so far: allocated on the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
