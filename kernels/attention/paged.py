"""Causal attention of ragged queries over a paged K/V cache, `softmax(scale q k) v`.

A tile is up to `16 / G` queries of one sequence with the G heads that share a K/V head. Its keys
are read in splits of fixed size, counted from the start of the sequence, and split s belongs to
program `s mod W` of the tile; a second kernel adds what the programs found, in their order. So a
row's result is a function of its own query and keys alone, whatever else is in the batch and
wherever its prompt was cut. No grid depends on data: all of it can be captured in a CUDA graph.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from greater_fast.kernels.checks import (
    MAX_HEAD_SIZE,
    expect,
    expect_ints,
    expect_pool,
    expect_together,
)
from greater_fast.kernels.reference import Ranges
from greater_fast.kernels.tiles import add_product, tanh

SPLIT = 512  # keys, a multiple of every tile's
MAX_WORKERS = 8  # W: programs that share the splits of a tile
_MIN_ROWS = 16  # of a tensor core's tile
_UNSPECIALISED = ["num_sequences", "table_width", "window"]  # they make no code better


def paged_attention(
    queries: torch.Tensor,
    pool: tuple[torch.Tensor, torch.Tensor],
    ranges: Ranges,
    scale: float,
    soft_cap: float = 0.0,
    window: int = 0,
) -> torch.Tensor:
    """The op of the same name in reference.py: sums in float32, the result in the queries' dtype.

    Args:
        queries: [M, H, D] float32, bfloat16 or float16, each head contiguous.
        pool: keys and values [blocks, KV, S, D] of that dtype, H a multiple of KV, D at most 512.
        ranges: starts [B + 1], context lengths [B], block tables [B, T], int32 on the same device.
        scale: of the scores.
        soft_cap: c of `c tanh(score / c)`; 0 for none.
        window: a query sees this many tokens at most, itself included; 0 for all.

    Returns:
        [M, H, D]; 0 in rows of padding.

    Raises:
        ValueError: shapes, strides or dtypes that do not fit together.
    """
    _check(queries, pool, ranges)
    num_tokens, num_heads, head_size = queries.shape
    _, num_kv_heads, block_size, _ = pool[0].shape
    num_sequences, table_width = ranges.block_tables.shape
    workers = max(1, min(MAX_WORKERS, triton.cdiv(table_width * block_size, SPLIT)))
    output = queries.new_empty(queries.shape)
    # What each program found for a row: sums of weighted values; highest score, sum of weights.
    parts = (num_tokens if workers > 1 else 0, num_heads, workers)
    partial = queries.new_empty((*parts, head_size), dtype=torch.float32)
    stats = queries.new_empty((*parts, 2), dtype=torch.float32)
    sizes = {
        "HEAD_SIZE": head_size,
        "HEAD_PAD": max(_MIN_ROWS, triton.next_power_of_2(head_size)),
        "SPLIT": SPLIT,
        "WORKERS": workers,
    }
    group = num_heads // num_kv_heads
    with torch.cuda.device_of(queries):
        paged_attention_kernel[(num_tokens, num_kv_heads, workers)](
            *(queries, *pool, output, partial, stats, *ranges),
            *(num_sequences, table_width, *queries.stride()[:2]),
            *(scale, soft_cap, window),
            HAS_CAP=soft_cap > 0,
            GROUP=group,
            ROWS=max(_MIN_ROWS, triton.next_power_of_2(group)),
            BLOCK_SIZE=block_size,
            **tiling(sizes["HEAD_PAD"], queries.dtype),
            **sizes,
        )
        if workers > 1:
            merge_splits_kernel[(num_tokens, num_heads)](
                *(partial, stats, output),
                *(ranges.starts, ranges.context_lens, num_sequences, window),
                WORKERS_PAD=triton.next_power_of_2(workers),
                num_warps=1,
                **sizes,
            )
    return output


def tiling(head_pad: int, dtype: torch.dtype) -> dict[str, int]:
    """Keys read at a time (8 KiB of them, but 16 to 32), warps, and stages that overlap.

    Five stages are two tiles of keys and values on their way: their places come from a table, which
    is read ahead of them. Tiles over 8 KiB would not fit in shared memory twice, and of those over
    16 none is on its way. Heads over 256 would spill with four warps.
    """
    row_bytes = head_pad * dtype.itemsize
    keys = max(16, min(32, (8 << 10) // row_bytes))
    tile_bytes = keys * row_bytes
    stages = 5 if tile_bytes <= 8 << 10 else 3 if tile_bytes <= 16 << 10 else 1
    warps = 8 if dtype == torch.float32 or head_pad > 256 else 4
    return {"TILE_KEYS": keys, "num_warps": warps, "num_stages": stages}


def _check(queries: torch.Tensor, pool: tuple[torch.Tensor, torch.Tensor], ranges: Ranges) -> None:
    num_tokens, num_heads, head_size = queries.shape
    (num_sequences, table_width), num_kv_heads = ranges.block_tables.shape, pool[0].shape[1]
    expect_pool(pool)
    expect("queries", queries, (num_tokens, num_heads, pool[0].shape[3]), pool[0].dtype)
    if num_heads % num_kv_heads or head_size > MAX_HEAD_SIZE:
        raise ValueError(
            f"got {num_heads} heads of {head_size} over {num_kv_heads} K/V heads, expected a "
            f"multiple, of at most {MAX_HEAD_SIZE}"
        )
    if queries.numel() * MAX_WORKERS >= 1 << 31:
        raise ValueError(f"got {num_tokens} queries, too many for offsets of 32 bits")
    expect_ints("starts", ranges.starts, (num_sequences + 1,))
    expect_ints("context_lens", ranges.context_lens, (num_sequences,))
    expect_ints("block_tables", ranges.block_tables, (num_sequences, table_width))
    expect_together(queries, *pool, *ranges)


@triton.jit
def _sequence_of(row, starts, num_sequences):
    """The sequence whose queries hold a row: as many as end at it or before; B for padding.

    They are counted in chunks of one size, for steps of any number of sequences to run one code.
    Each chunk is summed at once: a vector kept over this loop costs the one over keys its stages.
    """
    CHUNK: tl.constexpr = 256
    found = 0
    for first in range(1, num_sequences + 1, CHUNK):
        index = first + tl.arange(0, CHUNK)
        stops = tl.load(starts + index, mask=index <= num_sequences, other=row + 1)
        found += tl.sum((stops <= row).to(tl.int32), axis=0)
    return found


@triton.jit(do_not_specialize=_UNSPECIALISED)
def paged_attention_kernel(
    queries,
    keys,
    values,
    output,
    partial,
    stats,
    starts,
    context_lens,
    tables,
    num_sequences,
    table_width,
    query_stride_m,
    query_stride_h,
    scale,
    soft_cap,
    window,
    HAS_CAP: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    TILE_KEYS: tl.constexpr,
    SPLIT: tl.constexpr,
    WORKERS: tl.constexpr,
):
    """The tile that begins at query row `program 0`, if one does, over the splits of one worker."""
    TILE_QUERIES: tl.constexpr = ROWS // GROUP
    row, kv_head, worker = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    num_kv_heads = tl.num_programs(1)
    member = tl.arange(0, ROWS)
    column = tl.arange(0, HEAD_PAD)
    in_head = column < HEAD_SIZE
    head = kv_head * GROUP + member % GROUP
    sequence = _sequence_of(row, starts, num_sequences)
    if sequence == num_sequences:
        if worker == 0:
            place = (row * num_kv_heads * GROUP + head) * HEAD_SIZE
            zero = tl.zeros([ROWS, HEAD_PAD], output.dtype.element_ty)
            mask = (member < GROUP)[:, None] & in_head[None, :]
            tl.store(output + place[:, None] + column[None, :], zero, mask=mask)
        return
    start = tl.load(starts + sequence)
    if (row - start) % TILE_QUERIES != 0:
        return

    # Where the rows of the tile stand in their sequence: each sees the keys [first, stop).
    num_queries = tl.load(starts + sequence + 1) - start
    num_before = tl.load(context_lens + sequence) - num_queries
    query = row - start + member // GROUP
    is_row = (member < TILE_QUERIES * GROUP) & (query < num_queries)
    stop = tl.where(is_row, num_before + query + 1, 0)
    first = tl.where(window > 0, tl.maximum(stop - window, 0), 0)
    tile_stop = num_before + tl.minimum(row - start + TILE_QUERIES, num_queries)
    tile_first = tl.where(window > 0, tl.maximum(num_before + row - start + 1 - window, 0), 0)
    first_split = tile_first // SPLIT
    last_split = (tile_stop - 1) // SPLIT
    own_split = first_split + (worker + WORKERS - first_split % WORKERS) % WORKERS
    if own_split > last_split:
        return

    mask = is_row[:, None] & in_head[None, :]
    place = (start + query).to(tl.int64) * query_stride_m + head * query_stride_h
    q = tl.load(queries + place[:, None] + column[None, :], mask=mask, other=0.0)
    table = tables + sequence.to(tl.int64) * table_width
    first_at = kv_head * BLOCK_SIZE * HEAD_SIZE
    highest = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sums = tl.zeros([ROWS, HEAD_PAD], tl.float32)
    for split in range(own_split, last_split + 1, WORKERS):
        # Tiles of keys begin at multiples of their size, for every row alike.
        low = tl.maximum(split * SPLIT, tile_first // TILE_KEYS * TILE_KEYS)
        high = tl.minimum((split + 1) * SPLIT, tile_stop)
        for tile in range(low, high, TILE_KEYS):
            key = tile + tl.arange(0, TILE_KEYS)
            known = key < tile_stop
            block = tl.load(table + key // BLOCK_SIZE, mask=known, other=0).to(tl.int64)
            at = (
                block * (num_kv_heads * BLOCK_SIZE * HEAD_SIZE)
                + first_at
                + key % BLOCK_SIZE * HEAD_SIZE
            )
            # What was never written may be NaN, and 0 × NaN is NaN: it is read as 0.
            written = known[:, None] & in_head[None, :]
            k = tl.load(keys + at[:, None] + column[None, :], mask=written, other=0.0)
            v = tl.load(values + at[:, None] + column[None, :], mask=written, other=0.0)
            scores = add_product(tl.zeros([ROWS, TILE_KEYS], tl.float32), q, k.T, "ieee") * scale
            if HAS_CAP:
                scores = soft_cap * tanh(scores / soft_cap)
            seen = (key[None, :] >= first[:, None]) & (key[None, :] < stop[:, None])
            scores = tl.where(seen, scores, -float("inf"))
            higher = tl.maximum(highest, tl.max(scores, 1))
            base = tl.where(higher == -float("inf"), 0.0, higher)  # a row that has seen nothing yet
            weights = tl.exp(scores - base[:, None])
            decay = tl.exp(highest - base)
            total = total * decay + tl.sum(weights, 1)
            sums = add_product(sums * decay[:, None], weights.to(v.dtype), v, "ieee")
            highest = higher

    place = (start + query) * num_kv_heads * GROUP + head
    if WORKERS == 1:
        total = tl.where(is_row, total, 1.0)
        result = (sums / total[:, None]).to(output.dtype.element_ty)
        tl.store(output + place[:, None] * HEAD_SIZE + column[None, :], result, mask=mask)
    else:
        at = place * WORKERS + worker
        tl.store(partial + at[:, None] * HEAD_SIZE + column[None, :], sums, mask=mask)
        tl.store(stats + at * 2, highest, mask=is_row)
        tl.store(stats + at * 2 + 1, total, mask=is_row)


@triton.jit(do_not_specialize=_UNSPECIALISED)
def merge_splits_kernel(
    partial,
    stats,
    output,
    starts,
    context_lens,
    num_sequences,
    window,
    HEAD_SIZE: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    SPLIT: tl.constexpr,
    WORKERS: tl.constexpr,
    WORKERS_PAD: tl.constexpr,
):
    """One head of one row: the sums over its splits, put together."""
    row, head = tl.program_id(0), tl.program_id(1)
    sequence = _sequence_of(row, starts, num_sequences)
    if sequence == num_sequences:
        return
    stop = tl.load(context_lens + sequence) - tl.load(starts + sequence + 1) + row + 1
    first = tl.where(window > 0, tl.maximum(stop - window, 0), 0)
    first_split = first // SPLIT
    num_more = (stop - 1) // SPLIT - first_split
    place = row * tl.num_programs(1) + head
    worker, column = tl.arange(0, WORKERS_PAD), tl.arange(0, HEAD_PAD)
    in_head = column < HEAD_SIZE
    has_split = (worker + WORKERS - first_split % WORKERS) % WORKERS <= num_more
    has_split = has_split & (worker < WORKERS)
    at = place * WORKERS + worker
    highest = tl.load(stats + at * 2, mask=has_split, other=-float("inf"))
    total = tl.load(stats + at * 2 + 1, mask=has_split, other=0.0)
    mask = has_split[:, None] & in_head[None, :]
    sums = tl.load(partial + at[:, None] * HEAD_SIZE + column[None, :], mask=mask, other=0.0)
    share = tl.exp(highest - tl.max(highest, 0))
    result = tl.sum(sums * share[:, None], 0) / tl.sum(total * share, 0)
    at = output + place * HEAD_SIZE + column
    tl.store(at, result.to(output.dtype.element_ty), mask=in_head)
