"""What several models of one run take of a device's memory together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from greater_fast.memory.budget import MemoryPlan, Need, Workload, budget
from greater_fast.model.byte_sizes import CONTEXT_BYTES, format_bytes


def budget_together(loads: Sequence[Workload]) -> MemoryPlan:
    """The plan of a run with these models on one device, without advice.

    All have their weights, their pools and what an engine's steps need there at once. Gradients,
    logits and batches of transformers' generate are made of one model at a time: the largest
    counts. Each is planned for beside the weights of the others; pools that are too much together
    are cut in proportion, down to one sequence.

    Raises:
        ValueError: `kv_cache_bytes`, which is that of each, is too small for one sequence.
    """
    if len(loads) == 1:
        return budget(loads[0])
    total = loads[0].total_bytes
    weights = sum(load.shapes.weight_bytes for load in loads)
    plans = [
        budget(replace(load, total_bytes=total - weights + load.shapes.weight_bytes))
        for load in loads
    ]
    parts = [{need.name: need for need in plan.needs} for plan in plans]
    sizes = " + ".join(format_bytes(part["weights"].num_bytes) for part in parts)
    needs = [Need("weights", weights, f"of {len(loads)} models: {sizes}")]
    for name in ("gradient", "logits", "overhead", "K/V of a batch"):
        if name == "overhead":
            needs.append(_overhead(loads, parts))
        elif found := [part[name] for part in parts if name in part]:
            largest = max(found, key=lambda need: need.num_bytes)
            needs.append(replace(largest, how=f"{largest.how}; of one model at a time"))
    pools = _pools(loads, plans, total - sum(need.num_bytes for need in needs))
    held = [own for own in pools if own is not None]
    if held:
        how = "of each model: " + " + ".join(map(format_bytes, held))
        needs.append(Need("K/V pool", sum(held), how))
    widest = max(zip(parts, plans, strict=True), key=lambda pair: pair[0]["gradient"].num_bytes)[1]
    return replace(
        widest,
        needs=tuple(needs),
        total_bytes=total,
        pool_bytes=sum(held) if held else None,
        pools=tuple(pools),
    )


def _overhead(loads: Sequence[Workload], parts: Sequence[Mapping[str, Need]]) -> Need:
    """The device's context, or the libraries, once; what engines have of their own, of each."""
    one = parts[0]["overhead"]
    if loads[0].device_type == "cpu":
        return one
    more = (len(loads) - 1) * (one.num_bytes - CONTEXT_BYTES)
    return replace(one, num_bytes=one.num_bytes + more)


def _pools(loads: Sequence[Workload], plans: Sequence[MemoryPlan], left: int) -> list[int | None]:
    """Each model's pool, of what is left for all; None for one that has none."""
    wanted = sum(plan.pool_bytes or 0 for plan in plans)
    if loads[0].config.kv_cache_bytes is not None or wanted <= left:
        return [plan.pool_bytes for plan in plans]
    return [
        None
        if plan.pool_bytes is None
        else max(load.sequence_bytes, plan.pool_bytes * max(0, left) // wanted)
        for load, plan in zip(loads, plans, strict=True)
    ]
