"""Writes to a paged K/V pool: new tokens into their slots, blocks into other blocks."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from greater_fast.kernels.checks import expect, expect_ints, expect_pool, expect_together


def store_kv(
    new: tuple[torch.Tensor, torch.Tensor],
    pool: tuple[torch.Tensor, torch.Tensor],
    slots: torch.Tensor,
) -> None:
    """Write new keys and values [M, KV, D] into `pool` [blocks, KV, S, D] at `slots` [M] int32.

    Raises:
        ValueError: shapes, strides or dtypes that do not fit together.
    """
    keys, values = pool
    num_tokens = len(slots)
    _, num_kv_heads, block_size, head_size = keys.shape
    expect_pool(pool)
    for name, tensor in zip(("keys", "values"), new, strict=True):
        expect(f"new {name}", tensor, (num_tokens, num_kv_heads, head_size), keys.dtype)
    expect_ints("slots", slots, (num_tokens,))
    expect_together(*new, *pool, slots)
    with torch.cuda.device_of(keys):
        store_kv_kernel[(num_tokens, num_kv_heads)](
            *(*new, keys, values, slots),
            *(*new[0].stride()[:2], *new[1].stride()[:2]),
            BLOCK_SIZE=block_size,
            HEAD_SIZE=head_size,
            HEAD_PAD=triton.next_power_of_2(head_size),
            num_warps=1,
        )


def copy_blocks(data: torch.Tensor, pairs: torch.Tensor) -> None:
    """Copy blocks of all layers, `data` [layers, 2, blocks, KV, S, D], `pairs` [C, 2] int32.

    A pair is (from, to); one of the same block twice is none. No block may be written that another
    pair names. The grid depends on C alone.

    Raises:
        ValueError: shapes, strides or dtypes that do not fit together.
    """
    expect_ints("pairs", pairs, (len(pairs), 2))
    expect_together(data, pairs)
    if data.ndim != 6 or not data.is_contiguous():
        raise ValueError("data: expected contiguous [layers, 2, blocks, KV, S, D]")
    with torch.cuda.device_of(data):
        copy_blocks_kernel[(len(pairs), data.shape[0] * 2)](
            *(data, pairs, data.shape[2]), BLOCK_NUMBERS=data[0, 0, 0].numel(), TILE=1024
        )


@triton.jit
def store_kv_kernel(
    new_keys,
    new_values,
    keys,
    values,
    slots,
    key_stride_m,
    key_stride_h,
    value_stride_m,
    value_stride_h,
    BLOCK_SIZE: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    HEAD_PAD: tl.constexpr,
):
    """One token's keys and values of one head."""
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tl.arange(0, HEAD_PAD)
    inside = column < HEAD_SIZE
    slot = tl.load(slots + token).to(tl.int64)
    row = (slot // BLOCK_SIZE * tl.num_programs(1) + head) * BLOCK_SIZE + slot % BLOCK_SIZE
    key = tl.load(new_keys + token * key_stride_m + head * key_stride_h + column, mask=inside)
    value = tl.load(
        new_values + token * value_stride_m + head * value_stride_h + column, mask=inside
    )
    tl.store(keys + row * HEAD_SIZE + column, key, mask=inside)
    tl.store(values + row * HEAD_SIZE + column, value, mask=inside)


@triton.jit(do_not_specialize=["num_blocks"])
def copy_blocks_kernel(data, pairs, num_blocks, BLOCK_NUMBERS: tl.constexpr, TILE: tl.constexpr):
    """One block of the keys or the values of one layer."""
    pair, tensor = tl.program_id(0), tl.program_id(1)
    source = tl.load(pairs + 2 * pair)
    target = tl.load(pairs + 2 * pair + 1)
    if source == target:
        return
    first = tensor.to(tl.int64) * num_blocks
    source = data + (first + source) * BLOCK_NUMBERS
    target = data + (first + target) * BLOCK_NUMBERS
    for start in range(0, BLOCK_NUMBERS, TILE):
        at = start + tl.arange(0, TILE)
        inside = at < BLOCK_NUMBERS
        tl.store(target + at, tl.load(source + at, mask=inside), mask=inside)
