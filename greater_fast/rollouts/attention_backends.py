"""Who attends over a plan's block tables: csrc on a CPU, Triton on a GPU, plain torch if forced."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from greater_fast.kernels import reference
from greater_fast.kernels.dispatch import BACKENDS, device_obstacle
from greater_fast.kernels.reference import Ranges, Turns
from greater_fast.model.attention.interface import AttentionOptions
from greater_fast.model.checks import UnsupportedModelError
from greater_fast.model.cpu.extension import paged_attention
from greater_fast.model.kv_cache import KVCache
from greater_fast.model.lm import LM
from greater_fast.rollouts.plan import Plan
from greater_fast.wording import quoted


class States(NamedTuple):
    """One layer's states of a step: `queries` [M, H, D], `keys` and `values` [M, KV, D].

    Where there are `turns`, queries and keys are to go through them first.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    turns: Turns | None = None


class Backend(NamedTuple):
    """`attend` writes a layer's new keys and values, then attends: [M, H, D], 0 in padding.

    `copy_blocks` copies K/V blocks by pairs [C, 2] int32 of (from, to); a pair of equals is none.
    One that `turns` takes states that are to be turned first.
    """

    attend: Callable[[Plan, int, States, AttentionOptions], torch.Tensor]
    copy_blocks: Callable[[KVCache, torch.Tensor], None]
    dtypes: tuple[torch.dtype, ...]
    turns: bool = False


def backend_of(plan: Plan) -> Backend:
    """The backend that a plan names."""
    return _BACKENDS[plan.backend]


def choose_backend(lm: LM, kernels: str = "auto") -> str:
    """`csrc` on a CPU and `triton` on a GPU, unless `kernels` forces `triton` or `reference`.

    Raises:
        UnsupportedModelError: there is none for the model's weights on its device.
        ValueError: there is no such backend, or the one that was forced does not run there.
    """
    if kernels not in BACKENDS:
        raise ValueError(f"kernels: got {quoted(kernels)}, expected one of {', '.join(BACKENDS)}")
    kind = lm.device.type
    own = "triton" if kind == "cuda" else "csrc"
    name = own if kernels == "auto" else kernels
    setting = f"with kernels={quoted(kernels)} there is no paged attention"
    if lm.dtype not in _BACKENDS[name].dtypes or (name == "csrc" and kind != "cpu"):
        raise UnsupportedModelError(f"{setting} for {lm.dtype} on {kind}")
    forced = kernels == "triton"
    obstacle = device_obstacle(lm.device, forced) if name == "triton" else None
    if obstacle:
        raise (UnsupportedModelError if kernels == "auto" else ValueError)(f"{setting}: {obstacle}")
    return name


def _attend_csrc(plan: Plan, layer: int, states: States, options: AttentionOptions) -> torch.Tensor:
    queries, new_keys, new_values = (tensor.contiguous() for tensor in states[:3])
    keys, values = plan.cache.layer(layer)
    output = torch.empty_like(queries)
    paged_attention(
        queries.numpy(),
        new_keys.numpy(),
        new_values.numpy(),
        keys.numpy(),
        values.numpy(),
        output.numpy(),
        plan.slots.numpy(),
        plan.query_starts.numpy(),
        plan.context_lens.numpy(),
        plan.block_tables.numpy(),
        plan.num_sequences,
        options.scale,
        options.soft_cap,
        options.window,
    )
    return output


def _copy_csrc(cache: KVCache, pairs: torch.Tensor) -> None:
    cache.copy(pairs[pairs[:, 0] != pairs[:, 1]])


def _attend_triton(
    plan: Plan, layer: int, states: States, options: AttentionOptions
) -> torch.Tensor:
    from greater_fast.kernels.attention import kv_blocks
    from greater_fast.kernels.attention import paged as kernel
    from greater_fast.kernels.layers import rotary

    queries, keys, values = (
        tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in states[:3]
    )
    pool = plan.cache.layer(layer)
    if states.turns is None:
        kv_blocks.store_kv((keys, values), pool, plan.slots)
    else:
        queries = rotary.turn_and_store((queries, keys, values), states.turns, pool, plan.slots)
    return kernel.paged_attention(
        queries, pool, _ranges(plan), options.scale, options.soft_cap, options.window
    )


def _copy_triton(cache: KVCache, pairs: torch.Tensor) -> None:
    from greater_fast.kernels.attention import kv_blocks

    for pool in cache.pools:
        kv_blocks.copy_blocks(pool, pairs)


def _attend_reference(
    plan: Plan, layer: int, states: States, options: AttentionOptions
) -> torch.Tensor:
    queries, keys, values, _ = states
    pool = plan.cache.layer(layer)
    reference.store_kv((keys, values), pool, plan.slots)
    output = reference.paged_attention(
        queries, pool, _ranges(plan), options.scale, options.soft_cap, options.window
    )
    return output.to(queries.dtype)


def _copy_reference(cache: KVCache, pairs: torch.Tensor) -> None:
    for pool in cache.pools:
        reference.copy_blocks(pool, pairs)


def _ranges(plan: Plan) -> Ranges:
    return Ranges(plan.query_starts, plan.context_lens, plan.block_tables)


_16_BITS = (torch.bfloat16, torch.float16)
_BACKENDS = {
    "csrc": Backend(_attend_csrc, _copy_csrc, (torch.float32, torch.float64)),
    "triton": Backend(_attend_triton, _copy_triton, (torch.float32, *_16_BITS), turns=True),
    "reference": Backend(
        _attend_reference, _copy_reference, (torch.float32, torch.float64, *_16_BITS)
    ),
}
