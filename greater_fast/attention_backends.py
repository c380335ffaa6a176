"""Who attends over a plan's block tables: csrc on a CPU, Triton kernels on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from greater_fast.attention_interface import AttentionOptions
from greater_fast.extension import paged_attention
from greater_fast.kernels.dispatch import device_obstacle
from greater_fast.kv_cache import KVCache
from greater_fast.lm import LM
from greater_fast.plan import Plan


class States(NamedTuple):
    """One layer's states of a step: `queries` [M, H, D], `keys` and `values` [M, KV, D]."""

    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor


class Backend(NamedTuple):
    """`attend` writes a layer's new keys and values, then attends: [M, H, D], 0 in padding.

    `copy_blocks` copies K/V blocks by pairs [C, 2] int32 of (from, to); a pair of equals is none.
    """

    attend: Callable[[Plan, int, States, AttentionOptions], torch.Tensor]
    copy_blocks: Callable[[KVCache, torch.Tensor], None]
    dtypes: tuple[torch.dtype, ...]


def backend_of(plan: Plan) -> Backend:
    """The backend that a plan names."""
    return _BACKENDS[plan.backend]


def choose_backend(lm: LM, forced: str | None = None) -> str:
    """`csrc` on a CPU and `triton` on a GPU, unless another is asked for.

    Raises:
        ValueError: there is no such backend, or it does not run there, or not with such weights.
    """
    kind = lm.device.type
    name = forced or ("triton" if kind == "cuda" else "csrc")
    if name not in _BACKENDS:
        raise ValueError(f"attention: got {name!r}, expected one of {', '.join(_BACKENDS)}")
    if lm.dtype not in _BACKENDS[name].dtypes or (name == "csrc" and kind != "cpu"):
        raise ValueError(f"there is no paged attention for {lm.dtype} on {kind}")
    obstacle = device_obstacle(lm.device, forced=True) if name == "triton" else None
    if obstacle:
        raise ValueError(f"there is no paged attention in Triton: {obstacle}")
    return name


def _attend_csrc(plan: Plan, layer: int, states: States, options: AttentionOptions) -> torch.Tensor:
    queries, new_keys, new_values = (tensor.contiguous() for tensor in states)
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
    from greater_fast.kernels import kv_blocks
    from greater_fast.kernels import paged_attention as kernel
    from greater_fast.kernels.reference import Ranges

    queries, keys, values = (
        tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in states
    )
    pool = plan.cache.layer(layer)
    kv_blocks.store_kv((keys, values), pool, plan.slots)
    ranges = Ranges(plan.query_starts, plan.context_lens, plan.block_tables)
    return kernel.paged_attention(
        queries, pool, ranges, options.scale, options.soft_cap, options.window
    )


def _copy_triton(cache: KVCache, pairs: torch.Tensor) -> None:
    from greater_fast.kernels import kv_blocks

    kv_blocks.copy_blocks(cache.data, pairs)


_BACKENDS = {
    "csrc": Backend(_attend_csrc, _copy_csrc, (torch.float32, torch.float64)),
    "triton": Backend(_attend_triton, _copy_triton, (torch.float32, torch.bfloat16, torch.float16)),
}
