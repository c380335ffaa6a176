"""How many token slots a step has: of a fixed shape on a GPU they are measured, else given."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median

from greater_fast.model.kv_cache import KVCache
from greater_fast.model.lm import LM
from greater_fast.rollouts.fixed_step import FixedStep
from greater_fast.rollouts.row_reader import RowReader
from greater_fast.rollouts.step_buffers import StepBuffers, StepCounts, step_shapes

GIVEN_TOKENS = 256
_GPU_SIZES = (64, 128, 256, 512)
_SLACK = 1.15  # a step may take so many times as long as the smallest
_NUM_TIMED = 7


def choose_step_size(lm: LM, backend: str) -> int:
    """Slots M of a step: with a GPU's kernels as many as cost little more than few.

    Up to there a step takes the time to read the weights, whatever M is.
    """
    if lm.device.type != "cuda" or backend != "triton":
        return GIVEN_TOKENS
    return knee({size: measure_step_ms(lm, backend, size) for size in _GPU_SIZES})


def knee(step_ms: Mapping[int, float]) -> int:
    """The largest size whose step takes at most 1.15 times as long as the smallest's."""
    limit = _SLACK * step_ms[min(step_ms)]
    return max(size for size, ms in step_ms.items() if ms <= limit)


def measure_step_ms(lm: LM, backend: str, num_slots: int) -> float:
    """Milliseconds of a step of padding: all of its work but attention."""
    buffers = StepBuffers(step_shapes(num_slots, table_width=1), lm.device)
    step = FixedStep(lm, KVCache(lm, 2), buffers, backend, RowReader(1.0, None, lm.device))
    times = []
    for _ in range(_NUM_TIMED):
        start = time.perf_counter()
        step.run(StepCounts(num_slots, 0, 0, 0, num_slots))
        times.append(1e3 * (time.perf_counter() - start))
    return median(times)
