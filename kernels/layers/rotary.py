"""Queries and keys of all heads, normed where the model norms them, then turned by their places.

A pair (x, y) of a head's numbers, R / 2 apart or neighbours, becomes

    (x cos_x - y sin_x, y cos_y + x sin_y)

and where there is a norm, each x is x w / sqrt(mean(x^2) + epsilon) before that. All of it is in
float32 and rounded once, in one launch for queries, keys and values.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch.autograd.function import once_differentiable

from greater_fast.kernels.checks import FLOATS, expect, expect_ints, expect_pool, expect_together
from greater_fast.kernels.layers.rotary_kernels import turn_back_kernel, turn_kernel
from greater_fast.kernels.reference import Turns

States = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

_WARP_NUMBERS = 1024  # of a program's queries, to a warp
_MAX_WARPS = 4


def turn_and_store(
    states: States, turns: Turns, pool: tuple[torch.Tensor, torch.Tensor], slots: torch.Tensor
) -> torch.Tensor:
    """Turned queries [M, H, D]; the turned keys, and the values, go into the pool.

    Args:
        states: queries [M, H, D], keys and values [M, KV, D], each head contiguous.
        turns: of the M tokens.
        pool: keys and values [blocks, KV, S, D] of the states' dtype.
        slots: [M] int32, where in it each token's are.

    Raises:
        ValueError: shapes, strides or dtypes that do not fit together.
    """
    _check(states, turns)
    expect_pool(pool)
    expect_ints("slots", slots, (len(states[0]),))
    expect("keys", states[1], (len(slots), pool[0].shape[1], pool[0].shape[3]), pool[0].dtype)
    expect_together(*states, *pool, slots)
    queries = states[0].new_empty(states[0].shape)
    _turn(states, (queries, *pool), turns, slots)
    return queries


def turned(states: torch.Tensor, num_kv_heads: int, turns: Turns) -> States:
    """Turned queries [M, H, D] and keys [M, KV, D], and the values; with a gradient by the states.

    They lie in new memory together: of the states nothing is kept, unless there is a norm.

    Args:
        states: [M, H + 2 KV, D] contiguous, the heads of queries, of keys and of values.
        num_kv_heads: KV.
        turns: of the M tokens; constants.

    Raises:
        ValueError: shapes, strides or dtypes that do not fit together.
    """
    if not states.is_contiguous():
        raise ValueError("states: expected a contiguous tensor")
    _check(_parts(states, num_kv_heads), turns)
    found: States = _Turned.apply(states, num_kv_heads, turns)  # type: ignore[no-untyped-call]
    return found


class _Turned(torch.autograd.Function):
    """Keeps the turns, which all layers share, and the states where they are normed."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, num_kv_heads: int, turns: Turns) -> States:
        ctx.turns, ctx.shape, ctx.num_kv_heads = turns, states.shape, num_kv_heads
        if turns.norm is not None:
            ctx.save_for_backward(states)
        targets = _parts(torch.empty_like(states), num_kv_heads)
        _turn(_parts(states, num_kv_heads), targets, turns)
        return targets

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *by_turned: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        gradients = [part if part.stride(-1) == 1 else part.contiguous() for part in by_turned]
        by_states = gradients[0].new_empty(ctx.shape)
        _turn_back(gradients, by_states, ctx.saved_tensors, ctx.turns)
        return by_states, None, None


def _turn(states: States, targets: States, turns: Turns, slots: torch.Tensor | None = None) -> None:
    """Queries into rows; keys and values into rows beside them, or with slots into a pool."""
    with torch.cuda.device_of(states[0]):
        turn_kernel[states[0].shape[0], states[1].shape[1]](
            *(*states, *targets, turns.cos, turns.sin, slots),
            *(turns.norm.weights if turns.norm else (None, None)),
            *(stride for part in states for stride in part.stride()[:2]),
            *(targets[0].stride(0), *_norm_numbers(turns)),
            BLOCK_SIZE=1 if slots is None else targets[1].shape[2],
            **_sizes(states, turns),
        )


def _turn_back(
    gradients: list[torch.Tensor],
    by_states: torch.Tensor,
    kept: tuple[torch.Tensor, ...],
    turns: Turns,
) -> None:
    """Gradients by queries, keys and values before the turn, into rows [M, H + 2 KV, D]."""
    queries, keys, _ = gradients
    with torch.cuda.device_of(queries):
        turn_back_kernel[queries.shape[0], keys.shape[1]](
            *(*gradients, by_states, turns.cos, turns.sin, *(kept or (None,))),
            *(turns.norm.weights if turns.norm else (None, None)),
            *(stride for part in gradients for stride in part.stride()[:2]),
            *(by_states.stride(0), *_norm_numbers(turns)),
            **_sizes((queries, keys, gradients[2]), turns),
        )


def _parts(states: torch.Tensor, num_kv_heads: int) -> States:
    queries, keys, values = states.split(
        [states.shape[1] - 2 * num_kv_heads, num_kv_heads, num_kv_heads], dim=1
    )
    return queries, keys, values


def _norm_numbers(turns: Turns) -> tuple[float, float]:
    return (turns.norm.epsilon, turns.norm.offset) if turns.norm else (0.0, 0.0)


def _sizes(states: States, turns: Turns) -> dict[str, int]:
    (_, num_heads, head_size), num_kv_heads = states[0].shape, states[1].shape[1]
    group_pad = triton.next_power_of_2(num_heads // num_kv_heads)
    pairs_pad = triton.next_power_of_2(head_size // 2)
    return {
        "GROUP": num_heads // num_kv_heads,
        "GROUP_PAD": group_pad,
        "HEAD_SIZE": head_size,
        "TURNED": turns.cos.shape[1],
        "PAIRS_PAD": pairs_pad,
        "INTERLEAVED": int(turns.interleaved),
        "num_warps": max(1, min(_MAX_WARPS, 2 * group_pad * pairs_pad // _WARP_NUMBERS)),
    }


def _check(states: States, turns: Turns) -> None:
    queries, keys, values = states
    if queries.ndim != 3 or keys.ndim != 3 or queries.dtype not in FLOATS:
        raise ValueError(
            f"queries: got {queries.dtype} {tuple(queries.shape)}, expected [M, H, D] float32, "
            "bfloat16 or float16"
        )
    (num_tokens, num_heads, head_size), num_kv_heads = queries.shape, keys.shape[1]
    if head_size % 2 or num_heads % max(1, num_kv_heads):
        raise ValueError(
            f"got {num_heads} heads of {head_size} over {num_kv_heads} K/V heads, expected a "
            "multiple, of an even number"
        )
    expect("queries", queries, tuple(queries.shape), queries.dtype)
    for name, part in (("keys", keys), ("values", values)):
        expect(name, part, (num_tokens, num_kv_heads, head_size), queries.dtype)
    width = turns.cos.shape[-1]
    if width % 2 or not 0 < width <= head_size or turns.cos.dtype not in FLOATS:
        raise ValueError(
            f"cos: got {turns.cos.dtype} of width {width}, expected float32, bfloat16 or float16 "
            f"of an even width of at most {head_size}"
        )
    for name, part in (("cos", turns.cos), ("sin", turns.sin)):
        expect(name, part, (num_tokens, width), turns.cos.dtype)
        if not part.is_contiguous():
            raise ValueError(f"{name}: expected a contiguous tensor")
    weights = turns.norm.weights if turns.norm else ()
    for weight in weights:
        expect("norm", weight, (head_size,), weight.dtype)
    expect_together(*states, turns.cos, turns.sin, *weights)
