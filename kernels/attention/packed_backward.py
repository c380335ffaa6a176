"""The gradient of attention over a packed row in Triton, with the weights made again.

    p = 2^(scores - log_sum)    dp = do v    delta = do · output    ds = p (dp - delta)
    dq = scale ds k             dk = scale ds q                     dv = p do

A program that takes a tile of queries goes through their keys and makes dq; one that takes a tile
of a segment's own keys goes through the queries that see them and makes dk and dv. Each writes its
own rows alone, adding in one order: the result is the same every time. Prefixes are constants.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from greater_fast.kernels.attention.packed_reference import Pool, Segments, States
from greater_fast.kernels.attention.packed_tiles import (
    key_tiling,
    load_rows,
    products_of,
    query_tiling,
    rows_of,
    scores_of,
    slopes_of,
    store_rows,
    stored_at,
    tile_place,
    weights_of,
)
from greater_fast.kernels.tiles import add_product


class Saved(NamedTuple):
    """Queries [M, H, D], keys and values [M, KV, D], the output, and log2 sums [M, H] float32."""

    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    output: torch.Tensor
    log_sums: torch.Tensor


def packed_gradients(
    gradient: torch.Tensor,
    saved: Saved,
    pool: Pool,
    segments: Segments,
    scale: float,
    soft_cap: float,
    window: int,
) -> States:
    """The gradients of queries, keys and values, contiguous and in their dtype.

    `gradient` [M, H, D] is that of the output, contiguous.
    """
    queries, keys, values, output, log_sums = saved
    num_kv_heads, head_size = keys.shape[1:]
    group = queries.shape[1] // num_kv_heads
    gradients = tuple(
        torch.empty(state.shape, dtype=state.dtype, device=state.device) for state in saved[:3]
    )
    deltas = torch.empty_like(log_sums)
    strides = [stride for state in saved[:3] for stride in state.stride()[:2]]
    options = (scale, soft_cap, window)
    sizes = query_tiling(head_size, group, queries.dtype)
    tiles = segments.query_tiles(sizes["ROWS"] // group)
    if len(tiles):
        query_gradient_kernel[(len(tiles), num_kv_heads)](
            *(queries, keys, values, *pool, output, gradient, log_sums, deltas, gradients[0]),
            *(tiles, segments.starts, segments.prefix_sizes, segments.block_tables),
            *(segments.block_tables.shape[1], *strides, *options),
            HAS_CAP=soft_cap > 0,
            BLOCK_SIZE=pool[0].shape[2],
            **sizes,
        )
        sizes = key_tiling(head_size, group, queries.dtype)
        tiles = segments.key_tiles(sizes["KEYS"])
        key_gradient_kernel[(len(tiles), num_kv_heads)](
            *(queries, keys, values, gradient, log_sums, deltas, *gradients[1:]),
            *(tiles, segments.starts, segments.prefix_sizes, *strides, *options),
            HAS_CAP=soft_cap > 0,
            **sizes,
        )
    return gradients[0], gradients[1], gradients[2]


@triton.jit(do_not_specialize=["table_width", "window"])
def query_gradient_kernel(
    queries,
    keys,
    values,
    pool_keys,
    pool_values,
    output,
    gradient,
    log_sums,
    deltas,
    query_gradient,
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
    """The gradient of a tile of queries, and their deltas. Grid: tiles of queries, K/V heads."""
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
    at = (start + query) * (num_kv_heads * GROUP) + head
    out = load_rows(output, at * HEAD_SIZE, is_row, HEAD_SIZE, HEAD_PAD)
    do = load_rows(gradient, at * HEAD_SIZE, is_row, HEAD_SIZE, HEAD_PAD)
    delta = tl.sum(out.to(tl.float32) * do.to(tl.float32), 1)
    tl.store(deltas + at, delta, mask=is_row)
    log_sum = tl.load(log_sums + at, mask=is_row, other=0.0)
    dq = tl.zeros([ROWS, HEAD_PAD], tl.float32)
    table = tables + segment.to(tl.int64) * table_width
    for tile in range(lowest // KEYS * KEYS, prefix, KEYS):
        key = tile + tl.arange(0, KEYS)
        is_key = key < prefix
        key_at = stored_at(key, is_key, table, kv_head, num_kv_heads, BLOCK_SIZE, HEAD_SIZE)
        k = load_rows(pool_keys, key_at, is_key, HEAD_SIZE, HEAD_PAD)
        v = load_rows(pool_values, key_at, is_key, HEAD_SIZE, HEAD_PAD)
        seen = is_key[None, :] & (key[None, :] >= low[:, None]) & is_row[:, None]
        scores = scores_of(q, k, scale, soft_cap, HAS_CAP)
        weights = weights_of(scores, log_sum[:, None], seen)
        dp = products_of(do, v)
        ds = slopes_of(scores, weights, dp, delta[:, None], soft_cap, HAS_CAP)
        dq = add_product(dq, ds.to(k.dtype), k, "ieee")
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
        weights = weights_of(scores, log_sum[:, None], seen)
        dp = products_of(do, v)
        ds = slopes_of(scores, weights, dp, delta[:, None], soft_cap, HAS_CAP)
        dq = add_product(dq, ds.to(k.dtype), k, "ieee")
    at = (start + query) * (num_kv_heads * GROUP) + head
    store_rows(query_gradient, at * HEAD_SIZE, dq * scale, is_row, HEAD_SIZE, HEAD_PAD)


@triton.jit(do_not_specialize=["window"])
def key_gradient_kernel(
    queries,
    keys,
    values,
    gradient,
    log_sums,
    deltas,
    key_gradient,
    value_gradient,
    tiles,
    starts,
    prefix_sizes,
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
    HEAD_SIZE: tl.constexpr,
    HEAD_PAD: tl.constexpr,
):
    """The gradients of a tile of own keys and their values. Grid: tiles of keys, K/V heads."""
    kv_head, num_kv_heads = tl.program_id(1), tl.num_programs(1)
    _, first, start, length, _ = tile_place(tl.program_id(0), tiles, starts, prefix_sizes)
    key = first + tl.arange(0, KEYS)
    is_key = key < length
    key_at = (start + key) * key_stride_m + kv_head * key_stride_h
    value_at = (start + key) * value_stride_m + kv_head * value_stride_h
    k = load_rows(keys, key_at, is_key, HEAD_SIZE, HEAD_PAD)
    v = load_rows(values, value_at, is_key, HEAD_SIZE, HEAD_PAD)
    dk = tl.zeros([KEYS, HEAD_PAD], tl.float32)
    dv = tl.zeros([KEYS, HEAD_PAD], tl.float32)
    # A key is seen by the queries [key, key + reach) of its segment.
    reach = tl.where(window > 0, tl.minimum(window, length), length)
    stop = tl.minimum(first + KEYS - 1 + reach, length)
    for tile in range(first, stop, ROWS // GROUP):
        query, head, is_row = rows_of(tile, length, kv_head, GROUP, ROWS)
        at = (start + query) * query_stride_m + head * query_stride_h
        q = load_rows(queries, at, is_row, HEAD_SIZE, HEAD_PAD)
        at = (start + query) * (num_kv_heads * GROUP) + head
        do = load_rows(gradient, at * HEAD_SIZE, is_row, HEAD_SIZE, HEAD_PAD)
        log_sum = tl.load(log_sums + at, mask=is_row, other=0.0)
        delta = tl.load(deltas + at, mask=is_row, other=0.0)
        seen = (query[None, :] >= key[:, None]) & (query[None, :] < key[:, None] + reach)
        scores = scores_of(k, q, scale, soft_cap, HAS_CAP)  # [KEYS, ROWS]
        weights = weights_of(scores, log_sum[None, :], seen & is_row[None, :])
        dv = add_product(dv, weights.to(do.dtype), do, "ieee")
        dp = products_of(v, do)
        ds = slopes_of(scores, weights, dp, delta[None, :], soft_cap, HAS_CAP)
        dk = add_product(dk, ds.to(q.dtype), q, "ieee")
    at = ((start + key) * num_kv_heads + kv_head) * HEAD_SIZE
    store_rows(key_gradient, at, dk * scale, is_key, HEAD_SIZE, HEAD_PAD)
    store_rows(value_gradient, at, dv, is_key, HEAD_SIZE, HEAD_PAD)
