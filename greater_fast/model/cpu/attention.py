"""Attention over a packed row on the CPU, by csrc/attention/packed_attention.cpp, and its gradient.

One call a layer for all examples and heads. Kept for the way back are queries, keys and values
alone: weights are made again, and prefixes are read again where they are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from greater_fast.model.attention.interface import AttentionOptions
from greater_fast.model.cpu.extension import packed_attention, packed_attention_backward
from greater_fast.model.cpu.host_memory import new_array
from greater_fast.model.kv_cache import Blocks

# Each segment's prefix: where its keys and values are, and how many tokens; or None.
Prefixes = Sequence[tuple[Blocks, int] | None]


def takes(tensor: torch.Tensor) -> bool:
    """Whether states of such a device and type can be attended over here."""
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64)


def cpu_attention(
    states: Sequence[torch.Tensor],
    starts: Sequence[int],
    prefixes: Prefixes,
    options: AttentionOptions,
) -> torch.Tensor:
    """Attention [M, H, D] of queries [M, H, D] over keys and values [M, KV, D].

    Segment i is the rows from `starts[i]` to the next start; its tokens see its prefix too.
    """
    queries, keys, values = (tensor.contiguous() for tensor in states)
    outputs: torch.Tensor = _PackedAttention.apply(  # type: ignore[no-untyped-call]
        queries, keys, values, (list(starts), prefixes, options)
    )
    return outputs


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        row: tuple[list[int], Prefixes, AttentionOptions],
    ) -> torch.Tensor:
        ctx.save_for_backward(queries, keys, values)
        starts, prefixes, options = row
        ctx.rest = starts, prefixes, (options.scale, options.soft_cap, options.window)
        arrays = tuple(tensor.detach().numpy() for tensor in (queries, keys, values))
        outputs = new_array(queries.shape, arrays[0].dtype)
        packed_attention(arrays, starts, _arrays(prefixes), outputs, ctx.rest[-1])
        return torch.from_numpy(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        starts, prefixes, options = ctx.rest
        arrays = tuple(tensor.detach().numpy() for tensor in ctx.saved_tensors)
        gradients = tuple(new_array(array.shape, array.dtype) for array in arrays)
        by_outputs = gradient.detach().contiguous().numpy()
        packed_attention_backward(arrays, starts, _arrays(prefixes), by_outputs, gradients, options)
        return (*map(torch.from_numpy, gradients), None)


def _arrays(prefixes: Prefixes) -> list[Any]:
    return [
        prefix and (prefix[0].keys.numpy(), prefix[0].values.numpy(), prefix[0].ids, prefix[1])
        for prefix in prefixes
    ]
