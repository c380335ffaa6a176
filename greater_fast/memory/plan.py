"""The plan of a run with what to change where it does not fit: each change is planned again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from greater_fast.config import Config
from greater_fast.memory.budget import MemoryPlan, RowLengths, Workload
from greater_fast.memory.shapes import ModelShapes
from greater_fast.memory.together import budget_together
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
    beside: Sequence[ModelShapes] = (),
) -> MemoryPlan:
    """What a run takes of `total_bytes` of a device's memory, and what to change if it is more.

    `beside` are the other models of a run with several.

    Raises:
        ValueError: `kv_cache_bytes` is set, and too small for one sequence.
    """
    loads = [
        Workload(
            shapes=own,
            lengths=lengths,
            config=config,
            total_bytes=total_bytes,
            device_type=device_type,
        )
        for own in (shapes, *beside)
    ]
    plan = budget_together(loads)
    return plan if plan.fits else replace(plan, advice=tuple(_advice(loads, plan)))


def _advice(loads: Sequence[Workload], plan: MemoryPlan) -> Iterator[str]:
    """Changes that save something, each with what it saves, then all of them together."""
    together, alone_enough, num_changes = list(loads), False, 0
    for change in _changes(loads, plan):
        changed = budget_together([change.made(load) for load in loads])
        saved = plan.needed_bytes - changed.needed_bytes
        if saved <= 0:
            continue
        together, num_changes = [change.made(load) for load in together], num_changes + 1
        alone_enough = alone_enough or changed.fits
        effect = "then it fits" if changed.fits else "not enough alone"
        yield f"{change.text}: saves {format_bytes(saved)}, {effect}"
    if alone_enough:
        return
    if num_changes > 1 and budget_together(together).fits:
        yield "with all of these together it fits"
    else:
        smaller = "a smaller model" if len(loads) == 1 else "fewer or smaller models"
        yield f"no setting is enough: take {smaller}, or a device with more memory"


def _changes(loads: Sequence[Workload], plan: MemoryPlan) -> Iterator[_Change]:
    """What could be changed, of each model alike, the least harmful first."""
    config, excess = loads[0].config, plan.needed_bytes - plan.total_bytes
    longest = loads[0].lengths.longest

    def fits(change: Callable[[Workload], Workload]) -> bool:
        return budget_together([change(load) for load in loads]).fits

    if plan.gradient_tokens > longest:
        token_bytes = max(
            load.gradient_bytes(1, checkpointing=plan.checkpointing) for load in loads
        )
        fitting = plan.gradient_tokens - -(-excess // token_bytes)
        tokens, note = (fitting, "") if fitting >= longest else (1, " (one example at a time)")
        yield _Change(
            f"gradient_batch_tokens={tokens}{note}",
            partial(_configured, gradient_batch_tokens=tokens),
        )
    if config.gradient_checkpointing == "off":
        change = partial(_configured, gradient_checkpointing="auto")
        yield _Change("gradient_checkpointing='auto'", change)
    if config.kv_cache_bytes is not None and config.engine != "generate":
        least = max(load.sequence_bytes for load in loads)
        pool = max(least, config.kv_cache_bytes - -(-excess // len(loads)))
        yield _Change(f"kv_cache_bytes={pool}", partial(_configured, kv_cache_bytes=pool))
    if config.engine == "generate" and config.batch_size > 1:
        rows = config.batch_size
        while rows > 1 and not fits(partial(_configured, batch_size=rows)):
            rows //= 2
        yield _Change(f"batch_size={rows}", partial(_configured, batch_size=rows))
    limit = config.max_new_tokens
    while limit // 2 >= _LEAST_NEW_TOKENS and not fits(partial(_shorter, max_new_tokens=limit)):
        limit //= 2
    if limit < config.max_new_tokens:
        yield _Change(f"max_new_tokens={limit}", partial(_shorter, max_new_tokens=limit))
    if any(load.shapes.itemsize > 2 for load in loads):
        yield _Change("dtype='bfloat16'", lambda r: replace(r, shapes=r.shapes.in_16_bits()))
    if any(load.shapes.linear_bytes for load in loads):
        text = "4-bit weights (a checkpoint or a loaded model quantised by bitsandbytes or torchao)"
        yield _Change(text, lambda r: replace(r, shapes=r.shapes.in_4_bits()))


def _configured(load: Workload, **settings: Any) -> Workload:
    return replace(load, config=replace(load.config, **settings))


def _shorter(load: Workload, max_new_tokens: int) -> Workload:
    fewer = load.config.max_new_tokens - max_new_tokens
    shorter = replace(load, lengths=load.lengths.shortened(fewer))
    return _configured(shorter, max_new_tokens=max_new_tokens)
