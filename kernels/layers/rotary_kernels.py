"""What rotary.py launches: a program takes the heads of one token that share a K/V head.

A head is read as two tiles, the first numbers of its pairs and the second ones. What a partial
rotary embedding leaves as it is makes pairs of neighbours, turned by an angle of 0.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def turn_kernel(
    queries,
    keys,
    values,
    query_target,
    key_target,
    value_target,
    cos,
    sin,
    slots,
    query_weights,
    key_weights,
    query_stride_m,
    query_stride_h,
    key_stride_m,
    key_stride_h,
    value_stride_m,
    value_stride_h,
    target_stride_m,
    epsilon,
    offset,
    BLOCK_SIZE: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PAD: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    TURNED: tl.constexpr,
    PAIRS_PAD: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):
    """Queries into rows; keys and values into rows, or into a pool where there are slots."""
    token, kv_head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    x_at, y_at = _pairs(HEAD_SIZE, TURNED, PAIRS_PAD, INTERLEAVED)
    cos_x, sin_x = _turns(cos, sin, token, x_at, TURNED)
    cos_y, sin_y = _turns(cos, sin, token, y_at, TURNED)
    member = tl.arange(0, GROUP_PAD)
    head = kv_head * GROUP + member
    inside = (member < GROUP)[:, None] & (y_at < HEAD_SIZE)[None, :]
    x, y = _load(queries + token * query_stride_m + head * query_stride_h, x_at, y_at, inside)
    if query_weights is not None:
        x, y = _normed(x, y, query_weights, x_at, y_at, epsilon, offset, HEAD_SIZE)
    place = query_target + token * target_stride_m + head * HEAD_SIZE
    _store(place, x * cos_x - y * sin_x, y * cos_y + x * sin_y, x_at, y_at, inside)

    one = tl.arange(0, 1)
    inside = (one == 0)[:, None] & (y_at < HEAD_SIZE)[None, :]
    x, y = _load(keys + token * key_stride_m + kv_head * key_stride_h + one, x_at, y_at, inside)
    if key_weights is not None:
        x, y = _normed(x, y, key_weights, x_at, y_at, epsilon, offset, HEAD_SIZE)
    if slots is None:
        row = token * target_stride_m + kv_head * HEAD_SIZE
    else:
        slot = tl.load(slots + token).to(tl.int64)
        row = (slot // BLOCK_SIZE * tl.num_programs(1) + kv_head) * BLOCK_SIZE + slot % BLOCK_SIZE
        row = row * HEAD_SIZE
    place = key_target + row + one
    _store(place, x * cos_x - y * sin_x, y * cos_y + x * sin_y, x_at, y_at, inside)
    source = values + token * value_stride_m + kv_head * value_stride_h
    _copy(source, value_target + row, HEAD_SIZE, PAIRS_PAD)


@triton.jit
def turn_back_kernel(
    by_queries,
    by_keys,
    by_values,
    by_states,
    cos,
    sin,
    states,
    query_weights,
    key_weights,
    query_stride_m,
    query_stride_h,
    key_stride_m,
    key_stride_h,
    value_stride_m,
    value_stride_h,
    states_stride_m,
    epsilon,
    offset,
    GROUP: tl.constexpr,
    GROUP_PAD: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    TURNED: tl.constexpr,
    PAIRS_PAD: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):
    """Gradients by what `turn_kernel` read, in the rows of a product: queries, keys, values."""
    token, kv_head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    num_kv_heads = tl.num_programs(1)
    x_at, y_at = _pairs(HEAD_SIZE, TURNED, PAIRS_PAD, INTERLEAVED)
    cos_x, sin_x = _turns(cos, sin, token, x_at, TURNED)
    cos_y, sin_y = _turns(cos, sin, token, y_at, TURNED)
    member = tl.arange(0, GROUP_PAD)
    head = kv_head * GROUP + member
    inside = (member < GROUP)[:, None] & (y_at < HEAD_SIZE)[None, :]
    x, y = _load(by_queries + token * query_stride_m + head * query_stride_h, x_at, y_at, inside)
    x, y = x * cos_x + y * sin_y, y * cos_y - x * sin_x
    row = token * states_stride_m + head * HEAD_SIZE
    if query_weights is not None:
        own_x, own_y = _load(states + row, x_at, y_at, inside)
        x, y = _norm_back(x, y, own_x, own_y, query_weights, x_at, y_at, epsilon, offset, HEAD_SIZE)
    _store(by_states + row, x, y, x_at, y_at, inside)

    one = tl.arange(0, 1)
    inside = (one == 0)[:, None] & (y_at < HEAD_SIZE)[None, :]
    x, y = _load(by_keys + token * key_stride_m + kv_head * key_stride_h + one, x_at, y_at, inside)
    x, y = x * cos_x + y * sin_y, y * cos_y - x * sin_x
    row = token * states_stride_m + (num_kv_heads * GROUP + kv_head) * HEAD_SIZE + one
    if key_weights is not None:
        own_x, own_y = _load(states + row, x_at, y_at, inside)
        x, y = _norm_back(x, y, own_x, own_y, key_weights, x_at, y_at, epsilon, offset, HEAD_SIZE)
    _store(by_states + row, x, y, x_at, y_at, inside)
    source = by_values + token * value_stride_m + kv_head * value_stride_h
    first = token * states_stride_m + (num_kv_heads * (GROUP + 1) + kv_head) * HEAD_SIZE
    _copy(source, by_states + first, HEAD_SIZE, PAIRS_PAD)


@triton.jit
def _pairs(
    HEAD_SIZE: tl.constexpr,
    TURNED: tl.constexpr,
    PAIRS_PAD: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):
    """Where in a head the first and the second number of each pair are."""
    pair = tl.arange(0, PAIRS_PAD)
    x_at, y_at = 2 * pair, 2 * pair + 1
    if not INTERLEAVED:
        is_turned = pair < TURNED // 2
        x_at = tl.where(is_turned, pair, x_at)
        y_at = tl.where(is_turned, pair + TURNED // 2, y_at)
    return x_at, y_at


@triton.jit
def _turns(cos, sin, token, at, TURNED: tl.constexpr):
    """Cosines and sines [1, pairs] at these places."""
    inside = at < TURNED
    place = token * TURNED + at
    cosines = tl.load(cos + place, mask=inside, other=1.0).to(tl.float32)
    sines = tl.load(sin + place, mask=inside, other=0.0).to(tl.float32)
    return cosines[None, :], sines[None, :]


@triton.jit
def _load(heads, x_at, y_at, inside):
    """Both numbers of the pairs of some heads, each [heads, pairs] in float32."""
    x = tl.load(heads[:, None] + x_at[None, :], mask=inside, other=0.0)
    y = tl.load(heads[:, None] + y_at[None, :], mask=inside, other=0.0)
    return x.to(tl.float32), y.to(tl.float32)


@triton.jit
def _store(heads, x, y, x_at, y_at, inside):
    element = heads.dtype.element_ty
    tl.store(heads[:, None] + x_at[None, :], x.to(element), mask=inside)
    tl.store(heads[:, None] + y_at[None, :], y.to(element), mask=inside)


@triton.jit
def _copy(source, target, HEAD_SIZE: tl.constexpr, PAIRS_PAD: tl.constexpr):
    column = tl.arange(0, 2 * PAIRS_PAD)
    inside = column < HEAD_SIZE
    tl.store(target + column, tl.load(source + column, mask=inside), mask=inside)


@triton.jit
def _factors(weights, at, offset, HEAD_SIZE: tl.constexpr):
    """What a norm multiplies by at these places, [1, pairs]."""
    inside = at < HEAD_SIZE
    return (offset + tl.load(weights + at, mask=inside, other=0.0).to(tl.float32))[None, :]


@triton.jit
def _inverse_length(x, y, epsilon, HEAD_SIZE: tl.constexpr):
    """1 / sqrt(mean square + epsilon) of each head, [heads, 1]."""
    squares = tl.sum(x * x + y * y, 1) / HEAD_SIZE
    return tl.rsqrt(squares + epsilon)[:, None]


@triton.jit
def _normed(x, y, weights, x_at, y_at, epsilon, offset, HEAD_SIZE: tl.constexpr):
    scale = _inverse_length(x, y, epsilon, HEAD_SIZE)
    x = x * scale * _factors(weights, x_at, offset, HEAD_SIZE)
    return x, y * scale * _factors(weights, y_at, offset, HEAD_SIZE)


@triton.jit
def _norm_back(by_x, by_y, x, y, weights, x_at, y_at, epsilon, offset, HEAD_SIZE: tl.constexpr):
    """Gradients by what a norm read, (x, y), from those by what it gave."""
    scale = _inverse_length(x, y, epsilon, HEAD_SIZE)
    by_x = by_x * _factors(weights, x_at, offset, HEAD_SIZE)
    by_y = by_y * _factors(weights, y_at, offset, HEAD_SIZE)
    x, y = x * scale, y * scale
    share = tl.sum(by_x * x + by_y * y, 1)[:, None] / HEAD_SIZE
    return scale * (by_x - x * share), scale * (by_y - y * share)
