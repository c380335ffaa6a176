"""How many token slots (M) a step of fixed shape has on a GPU: measured, for the work to come."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import TypeVar

import torch

from greater_fast.config import Config
from greater_fast.model.byte_sizes import is_out_of_memory
from greater_fast.model.kv_cache import KVCache
from greater_fast.model.lm import LM
from greater_fast.rollouts.steps.fixed_step import FixedStep
from greater_fast.rollouts.steps.row_reader import RowReader
from greater_fast.rollouts.steps.step_buffers import StepBuffers, StepCounts, step_shapes

GIVEN_TOKENS = 256  # where nothing is measured
SIZES = range(64, 513, 64)
_SAME = 1.03  # times closer than this are equal: what is chosen must not change from run to run
_WARM_ROUNDS, _NUM_ROUNDS = 5, 7  # by number: ranks that share a model run the same steps

T = TypeVar("T")


def has_fixed_steps(lm: LM, backend: str) -> bool:
    """Whether steps are of one shape unless asked otherwise: where a CUDA graph can hold them."""
    return lm.device.type == "cuda" and backend == "triton"


def best_size(step_ms: Mapping[int, float], num_sequences: int | None = None) -> int:
    """The size that lets B sequences end soonest, by the milliseconds of a step of each size.

    A step has at most a sequence a slot, so sequences of one length take ceil(B / M) waves: the
    fewest waves times milliseconds win, and of equals the smallest size. What is left out pulls
    both ways, by a few per cent where that was counted: slots beyond B take in prompts sooner and
    verify drafts; sequences that end early leave theirs to the next wave.

    Args:
        step_ms: by size M.
        num_sequences: B; None for those of a search with default settings.
    """
    if num_sequences is None:
        usual = Config()
        num_sequences = usual.shortlist_size * usual.num_train
    costs = {size: -(-num_sequences // size) * ms for size, ms in step_ms.items()}
    return min(size for size, cost in costs.items() if cost <= _SAME * min(costs.values()))


def measure_step_ms(lm: LM, backend: str, reader: RowReader, table_width: int) -> dict[int, float]:
    """Milliseconds of a step of each size, of padding: all of its work but attention.

    Sizes take turns, and the first rounds, in which a GPU's clocks come up, do not count. A size
    that finds no memory is left out.

    Raises:
        MemoryError: no size finds any.
    """
    cache = KVCache(lm, 2)
    steps: dict[int, FixedStep] = {}
    for size in SIZES:
        step = _within_memory(partial(_step, lm, cache, backend, reader, (size, table_width)))
        if step is None:  # nor would there be any for a larger one
            break
        steps[size] = step
    times: dict[int, list[float]] = {size: [] for size in steps}
    for _ in range(_WARM_ROUNDS + _NUM_ROUNDS):
        _take_turns(steps, times)
    if not steps:
        raise MemoryError(f"there is none for a step of {SIZES[0]} tokens")
    return {size: median(times[size][-_NUM_ROUNDS:]) for size in steps}


def _take_turns(steps: dict[int, FixedStep], times: dict[int, list[float]]) -> None:
    """Time each step once; those that find no memory are taken out."""
    for size in list(steps):
        ms = _within_memory(partial(_time_ms, steps[size], size))
        if ms is None:
            del steps[size]
        else:
            times[size].append(ms)


def _step(
    lm: LM, cache: KVCache, backend: str, reader: RowReader, shape: tuple[int, int]
) -> FixedStep:
    buffers = StepBuffers(step_shapes(*shape), lm.device)
    return FixedStep(lm, cache, buffers, backend, reader)


def _time_ms(step: FixedStep, size: int) -> float:
    start = time.perf_counter()
    step.run(StepCounts(size, 0, 0, 0, size))
    return 1e3 * (time.perf_counter() - start)


def _within_memory(work: Callable[[], T]) -> T | None:
    """What the work returns; None where memory ends, and what it had taken is free again."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # The error is gone, and with it the frames that held the memory.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None
