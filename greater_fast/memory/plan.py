"""The plan of a run with what to change where it does not fit: each change is planned again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from greater_fast.config import Config
from greater_fast.memory.budget import MemoryPlan, RowLengths, Workload, budget
from greater_fast.memory.shapes import ModelShapes
from greater_fast.model.byte_sizes import format_bytes

_LEAST_NEW_TOKENS = 32  # less is no reasoning


@dataclass(frozen=True, slots=True)
class _Change:
    text: str
    made: Callable[[Workload], Workload]


def plan_memory(
    shapes: ModelShapes,
    lengths: RowLengths,
    config: Config,
    total_bytes: int,
    *,
    device_type: str = "cuda",
) -> MemoryPlan:
    """What a run takes of `total_bytes` of a device's memory, and what to change if it is more.

    Raises:
        ValueError: `kv_cache_bytes` is set, and too small for one sequence.
    """
    load = Workload(
        shapes=shapes,
        lengths=lengths,
        config=config,
        total_bytes=total_bytes,
        device_type=device_type,
    )
    plan = budget(load)
    return plan if plan.fits else replace(plan, advice=tuple(_advice(load, plan)))


def _advice(load: Workload, plan: MemoryPlan) -> Iterator[str]:
    """Changes that save something, each with what it saves, then all of them together."""
    together, alone_enough, num_changes = load, False, 0
    for change in _changes(load, plan):
        changed = budget(change.made(load))
        saved = plan.needed_bytes - changed.needed_bytes
        if saved <= 0:
            continue
        together, num_changes = change.made(together), num_changes + 1
        alone_enough = alone_enough or changed.fits
        effect = "then it fits" if changed.fits else "not enough alone"
        yield f"{change.text}: saves {format_bytes(saved)}, {effect}"
    if alone_enough:
        return
    if num_changes > 1 and budget(together).fits:
        yield "with all of these together it fits"
    else:
        yield "no setting is enough: take a smaller model, or a device with more memory"


def _changes(load: Workload, plan: MemoryPlan) -> Iterator[_Change]:
    """What could be changed, the least harmful first."""
    config, excess = load.config, plan.needed_bytes - plan.total_bytes
    longest = load.lengths.longest
    if plan.gradient_tokens > longest:
        token_bytes = load.gradient_bytes(1, checkpointing=plan.checkpointing)
        fitting = plan.gradient_tokens - -(-excess // token_bytes)
        tokens, note = (fitting, "") if fitting >= longest else (1, " (one example at a time)")
        yield _Change(
            f"gradient_batch_tokens={tokens}{note}",
            partial(_configured, gradient_batch_tokens=tokens),
        )
    if load.config.gradient_checkpointing == "off":
        change = partial(_configured, gradient_checkpointing="auto")
        yield _Change("gradient_checkpointing='auto'", change)
    if config.kv_cache_bytes is not None and config.engine != "generate":
        pool = max(load.sequence_bytes, config.kv_cache_bytes - excess)
        yield _Change(f"kv_cache_bytes={pool}", partial(_configured, kv_cache_bytes=pool))
    if config.engine == "generate" and config.batch_size > 1:
        rows = config.batch_size
        while rows > 1 and not budget(_configured(load, batch_size=rows)).fits:
            rows //= 2
        yield _Change(f"batch_size={rows}", partial(_configured, batch_size=rows))
    limit = config.max_new_tokens
    while limit // 2 >= _LEAST_NEW_TOKENS and not budget(_shorter(load, limit)).fits:
        limit //= 2
    if limit < config.max_new_tokens:
        yield _Change(f"max_new_tokens={limit}", partial(_shorter, max_new_tokens=limit))
    if load.shapes.itemsize > 2:
        yield _Change("dtype='bfloat16'", lambda r: replace(r, shapes=r.shapes.in_16_bits()))
    if load.shapes.linear_bytes:
        text = "4-bit weights (a checkpoint or a loaded model quantised by bitsandbytes or torchao)"
        yield _Change(text, lambda r: replace(r, shapes=r.shapes.in_4_bits()))


def _configured(load: Workload, **settings: Any) -> Workload:
    return replace(load, config=replace(load.config, **settings))


def _shorter(load: Workload, max_new_tokens: int) -> Workload:
    fewer = load.config.max_new_tokens - max_new_tokens
    shorter = replace(load, lengths=load.lengths.shortened(fewer))
    return _configured(shorter, max_new_tokens=max_new_tokens)
