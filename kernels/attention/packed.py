"""Attention over a packed row in Triton: all segments of a layer in one launch.

    output = softmax(scale q k) v, over a token's prefix and its segment's tokens up to itself

A program takes a tile of queries of one segment with the G heads that share a K/V head, and goes
through the keys that they see: first those of the prefix, by the block table, then the segment's
own. Tiles are counted from the start of prefix and segment, so the bits of a row depend on its own
example alone. Kept for the way back are the output and the logarithm of each row's sum of weights.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from greater_fast.kernels.attention.packed_backward import Saved, packed_gradients
from greater_fast.kernels.attention.packed_reference import Pool, Segments, States
from greater_fast.kernels.attention.packed_tiles import (
    load_rows,
    query_tiling,
    rows_of,
    scores_of,
    store_rows,
    stored_at,
    tile_place,
)
from greater_fast.kernels.tiles import add_product


class Call(NamedTuple):
    """What is constant in one layer's attention."""

    pool: Pool
    segments: Segments
    scale: float
    soft_cap: float
    window: int


def packed_attention(
    states: States,
    pool: Pool,
    segments: Segments,
    scale: float,
    soft_cap: float = 0.0,
    window: int = 0,
) -> torch.Tensor:
    """The op of the same name in packed_reference.py, whose arguments are checked by dispatch.py.

    All are float32, bfloat16 or float16 with heads that `max_packed_head` allows, and the pool is
    contiguous; a state whose heads are not is copied. Sums are float32; no program adds to what
    another writes. The pool must hold the prefixes until the way back.
    """
    rows = (state if state.stride(-1) == 1 else state.contiguous() for state in states)
    output: torch.Tensor = _PackedAttention.apply(
        *rows, Call(pool, segments, scale, soft_cap, window)
    )
    return output


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, call: Call
    ) -> torch.Tensor:
        states = queries, keys, values
        with torch.cuda.device_of(queries):
            output, log_sums = _forward(states, call)
        ctx.save_for_backward(*states, output, log_sums)
        ctx.call = call
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved = Saved(*ctx.saved_tensors)
        with torch.cuda.device_of(gradient):
            return (*packed_gradients(gradient.contiguous(), saved, *ctx.call), None)


def _forward(states: States, call: Call) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs [M, H, D], and the log2 [M, H] float32 of each row's sum of powers of two."""
    queries, keys, _ = states
    num_tokens, num_heads, head_size = queries.shape
    num_kv_heads, segments = keys.shape[1], call.segments
    output = torch.empty(queries.shape, dtype=queries.dtype, device=queries.device)
    log_sums = torch.empty(num_tokens, num_heads, dtype=torch.float32, device=queries.device)
    sizes = query_tiling(head_size, num_heads // num_kv_heads, queries.dtype)
    tiles = segments.query_tiles(sizes["ROWS"] // sizes["GROUP"])
    if len(tiles):
        packed_attention_kernel[(len(tiles), num_kv_heads)](
            *(*states, *call.pool, output, log_sums),
            *(tiles, segments.starts, segments.prefix_sizes, segments.block_tables),
            segments.block_tables.shape[1],
            *(stride for state in states for stride in state.stride()[:2]),
            *(call.scale, call.soft_cap, call.window),
            HAS_CAP=call.soft_cap > 0,
            BLOCK_SIZE=call.pool[0].shape[2],
            **sizes,
        )
    return output, log_sums


@triton.jit(do_not_specialize=["table_width", "window"])
def packed_attention_kernel(
    queries,
    keys,
    values,
    pool_keys,
    pool_values,
    output,
    log_sums,
    tiles,
    starts,
    prefix_sizes,
    tables,
    table_width,
    query_stride_m,
    query_stride_h,
    key_stride_m,
    key_stride_h,
    value_stride_m,
    value_stride_h,
    scale,
    soft_cap,
    window,
    HAS_CAP: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    HEAD_PAD: tl.constexpr,
):
    """Grid: tiles of queries, K/V heads."""
    kv_head, num_kv_heads = tl.program_id(1), tl.num_programs(1)
    segment, first, start, length, prefix = tile_place(
        tl.program_id(0), tiles, starts, prefix_sizes
    )
    query, head, is_row = rows_of(first, length, kv_head, GROUP, ROWS)
    # A row sees the places [low, high) of its sequence, and places below `prefix` are the prefix's.
    high = tl.where(is_row, prefix + query + 1, 0)
    low = tl.where(window > 0, tl.maximum(high - window, 0), 0)
    own_high = tl.minimum(first + ROWS // GROUP, length)
    lowest = tl.where(window > 0, tl.maximum(prefix + first + 1 - window, 0), 0)

    at = (start + query) * query_stride_m + head * query_stride_h
    q = load_rows(queries, at, is_row, HEAD_SIZE, HEAD_PAD)
    highest = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sums = tl.zeros([ROWS, HEAD_PAD], tl.float32)
    table = tables + segment.to(tl.int64) * table_width
    for tile in range(lowest // KEYS * KEYS, prefix, KEYS):
        key = tile + tl.arange(0, KEYS)
        is_key = key < prefix
        key_at = stored_at(key, is_key, table, kv_head, num_kv_heads, BLOCK_SIZE, HEAD_SIZE)
        k = load_rows(pool_keys, key_at, is_key, HEAD_SIZE, HEAD_PAD)
        v = load_rows(pool_values, key_at, is_key, HEAD_SIZE, HEAD_PAD)
        seen = is_key[None, :] & (key[None, :] >= low[:, None]) & is_row[:, None]
        scores = scores_of(q, k, scale, soft_cap, HAS_CAP)
        highest, total, sums = _add(scores, seen, v, highest, total, sums)
    for tile in range(tl.maximum(lowest - prefix, 0) // KEYS * KEYS, own_high, KEYS):
        key = tile + tl.arange(0, KEYS)
        is_key = key < own_high
        key_at = (start + key) * key_stride_m + kv_head * key_stride_h
        value_at = (start + key) * value_stride_m + kv_head * value_stride_h
        k = load_rows(keys, key_at, is_key, HEAD_SIZE, HEAD_PAD)
        v = load_rows(values, value_at, is_key, HEAD_SIZE, HEAD_PAD)
        place = prefix + key[None, :]
        seen = (place >= low[:, None]) & (place < high[:, None])
        scores = scores_of(q, k, scale, soft_cap, HAS_CAP)
        highest, total, sums = _add(scores, seen, v, highest, total, sums)

    total = tl.where(is_row, total, 1.0)
    at = (start + query) * (num_kv_heads * GROUP) + head
    store_rows(output, at * HEAD_SIZE, sums / total[:, None], is_row, HEAD_SIZE, HEAD_PAD)
    tl.store(log_sums + at, highest + tl.log2(total), mask=is_row)


@triton.jit
def _add(scores, seen, v, highest, total, sums):
    """A tile of keys added to what the rows have seen: highest score, weights, weighted values."""
    scores = tl.where(seen, scores, -float("inf"))
    higher = tl.maximum(highest, tl.max(scores, 1))
    base = tl.where(higher == -float("inf"), 0.0, higher)  # a row that has seen nothing yet
    weights = tl.exp2(scores - base[:, None])
    decay = tl.exp2(highest - base)
    total = total * decay + tl.sum(weights, 1)
    return higher, total, add_product(sums * decay[:, None], weights.to(v.dtype), v, "ieee")
