"""What the kernels of packed attention share: sizes, where rows and keys are, and what scores are.

A row of a tile is a query under one of the G heads that share its K/V head: G rows side by side
are one token's. Scores are in units of log 2, so that weights are powers of two.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from greater_fast.kernels.tiles import add_product, tanh

LOG2_E = tl.constexpr(1.4426950408889634)


def query_tiling(head_size: int, group: int, dtype: torch.dtype) -> dict[str, int]:
    """Sizes of a program that keeps a tile of queries and reads their keys, and of its launch.

    A row's bits depend on them, so they are functions of the model alone: the largest that no
    target spills with. Places in a group that is no power of two take registers too.
    """
    if dtype == torch.float32 or head_size > 256:
        return _sizes(head_size, group, rows=16, keys=16)
    if head_size > 128:
        return _sizes(head_size, group, rows=32, keys=16)
    return _sizes(head_size, group, rows=64, keys=32 if group & (group - 1) == 0 else 16)


def key_tiling(head_size: int, group: int, dtype: torch.dtype) -> dict[str, int]:
    """The same of a program that keeps a tile of keys and reads the queries that see them."""
    tile = 32 if dtype != torch.float32 and head_size <= 128 else 16
    return _sizes(head_size, group, rows=tile, keys=tile)


def _sizes(head_size: int, group: int, rows: int, keys: int) -> dict[str, int]:
    return {
        "GROUP": group,
        "ROWS": max(rows, triton.next_power_of_2(group)),
        "KEYS": keys,
        "HEAD_SIZE": head_size,
        "HEAD_PAD": max(16, triton.next_power_of_2(head_size)),
        "num_warps": 4 if head_size <= 256 else 8,
        "num_stages": 2,
    }


@triton.jit
def tile_place(tile, tiles, starts, prefix_sizes):
    """Of a tile: its segment, its first token, and the segment's first row, length and prefix."""
    segment = tl.load(tiles + 2 * tile)
    first = tl.load(tiles + 2 * tile + 1)
    start = tl.load(starts + segment)
    length = tl.load(starts + segment + 1) - start
    return segment, first, start.to(tl.int64), length, tl.load(prefix_sizes + segment)


@triton.jit
def rows_of(first, length, kv_head, GROUP: tl.constexpr, ROWS: tl.constexpr):
    """Of each row of a tile: its token, its head, and whether it is one."""
    row = tl.arange(0, ROWS)
    query = first + row // GROUP
    head = (kv_head * GROUP + row % GROUP).to(tl.int64)
    return query, head, (row < ROWS // GROUP * GROUP) & (query < length)


@triton.jit
def stored_at(key, known, table, kv_head, num_kv_heads, BLOCK_SIZE: tl.constexpr, D: tl.constexpr):
    """Where the keys of a prefix lie in the pool."""
    block = tl.load(table + key // BLOCK_SIZE, mask=known, other=0).to(tl.int64)
    return ((block * num_kv_heads + kv_head) * BLOCK_SIZE + key % BLOCK_SIZE) * D


@triton.jit
def load_rows(tensor, at, known, HEAD_SIZE: tl.constexpr, HEAD_PAD: tl.constexpr):
    """Rows [N, HEAD_PAD] that begin at `at`; 0 beyond a row's end, and for what is no row.

    What was never written may be NaN, and 0 × NaN is NaN.
    """
    column = tl.arange(0, HEAD_PAD)
    mask = known[:, None] & (column < HEAD_SIZE)[None, :]
    return tl.load(tensor + at[:, None] + column[None, :], mask=mask, other=0.0)


@triton.jit
def store_rows(tensor, at, rows, known, HEAD_SIZE: tl.constexpr, HEAD_PAD: tl.constexpr):
    """Write rows [N, HEAD_PAD] to where `load_rows` would read them."""
    column = tl.arange(0, HEAD_PAD)
    mask = known[:, None] & (column < HEAD_SIZE)[None, :]
    tl.store(tensor + at[:, None] + column[None, :], rows.to(tensor.dtype.element_ty), mask=mask)


@triton.jit
def scores_of(x, y, scale, soft_cap, HAS_CAP: tl.constexpr):
    """`log2 e · cap · tanh(scale x · y / cap)` of all rows x and y, or `log2 e · scale x · y`."""
    products = products_of(x, y)
    if HAS_CAP:
        return tanh(products * (scale / soft_cap)) * (soft_cap * LOG2_E)
    return products * (scale * LOG2_E)


@triton.jit
def weights_of(scores, log_sums, seen):
    """The weights of the softmax, 0 for what is not seen."""
    return tl.exp2(tl.where(seen, scores - log_sums, -float("inf")))


@triton.jit
def slopes_of(scores, weights, by_weights, deltas, soft_cap, HAS_CAP: tl.constexpr):
    """The gradient by what `scores_of` caps, `p (dp - delta)` times the slope of the cap."""
    slopes = weights * (by_weights - deltas)
    if HAS_CAP:
        share = scores * (1 / (soft_cap * LOG2_E))
        slopes = slopes * (1 - share * share)
    return slopes


@triton.jit
def products_of(x, y):
    """`x · y` of all rows x and y, in float32."""
    return add_product(tl.zeros([x.shape[0], y.shape[0]], tl.float32), x, y.T, "ieee")
