"""Kernels of rms_norm.py, forward and back; what is None in a launch is left out.

A program has whole rows and reads and writes each number once: they stay in registers.
"""

import triton
import triton.language as tl

_TILE = 1024  # numbers that a program takes at least: several rows of a head's width


def sizes(width: int) -> dict[str, int]:
    """Sizes of a program with rows of `width` numbers, 16 or 32 of them a thread."""
    block = triton.next_power_of_2(width)
    rows = max(1, _TILE // block)
    num_warps = min(max(1, rows * block // 512), 16)  # more than 16 are too many for AMD's
    return {"D": width, "BLOCK_D": block, "ROWS": rows, "num_warps": num_warps}


@triton.jit
def normalised(x, epsilon, D: tl.constexpr):
    """Rows [ROWS, BLOCK_D] over the roots of their mean squares, and one over these roots."""
    scale = tl.rsqrt(tl.sum(x * x, 1) / D + epsilon)[:, None]
    return x * scale, scale


@triton.jit
def weighted_norm(x, weights, epsilon, D: tl.constexpr, OFFSET: tl.constexpr, TYPE: tl.constexpr):
    """A norm of rows [ROWS, BLOCK_D] in float32; what is weighted is of TYPE."""
    x, _ = normalised(x, epsilon, D)
    return x.to(TYPE).to(tl.float32) * (OFFSET + weights)


@triton.jit
def norm_gradient(x, by_norm, weights, epsilon, D: tl.constexpr, OFFSET: tl.constexpr):
    """By x [ROWS, BLOCK_D]: `scale (g - u mean(g u))`, with g by u, the normalised rows."""
    unit, scale = normalised(x, epsilon, D)
    by_unit = by_norm * (OFFSET + weights)
    return scale * (by_unit - unit * (tl.sum(by_unit * unit, 1) / D)[:, None])


@triton.jit(do_not_specialize=["num_rows"])
def rms_norm_kernel(
    x,
    residual,
    sums,
    normed,
    first_weights,
    second_weights,
    x_stride,
    residual_stride,
    num_rows,
    first_epsilon,
    second_epsilon,
    FIRST_OFFSET: tl.constexpr,
    FIRST_ROUNDS: tl.constexpr,
    SECOND_OFFSET: tl.constexpr,
    SECOND_ROUNDS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Some rows of sums and normed, as far as these are there; a norm is there with its weights."""
    TYPE: tl.constexpr = x.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK_D)[None, :]
    inside = (row < num_rows) & (column < D)
    states = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    if first_weights is not None:
        weights = tl.load(first_weights + column, mask=column < D, other=0.0).to(tl.float32)
        FIRST_TYPE: tl.constexpr = TYPE if FIRST_ROUNDS else tl.float32
        states = weighted_norm(states, weights, first_epsilon, D, FIRST_OFFSET, FIRST_TYPE)
    if residual is not None:
        added = tl.load(residual + row * residual_stride + column, mask=inside, other=0.0)
        total = (added.to(tl.float32) + states).to(TYPE)
        tl.store(sums + row * D + column, total, mask=inside)
        states = total.to(tl.float32)
    if second_weights is not None:
        weights = tl.load(second_weights + column, mask=column < D, other=0.0).to(tl.float32)
        SECOND_TYPE: tl.constexpr = TYPE if SECOND_ROUNDS else tl.float32
        states = weighted_norm(states, weights, second_epsilon, D, SECOND_OFFSET, SECOND_TYPE)
        tl.store(normed + row * D + column, states.to(TYPE), mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def rms_norm_backward_kernel(
    x,
    sums,
    by_sums,
    by_normed,
    by_residual,
    by_x,
    first_weights,
    second_weights,
    x_stride,
    sums_stride,
    num_rows,
    first_epsilon,
    second_epsilon,
    FIRST_OFFSET: tl.constexpr,
    SECOND_OFFSET: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Some rows of the gradients; `sums` are what the second norm read, `x` the first."""
    TYPE: tl.constexpr = by_residual.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK_D)[None, :]
    inside = (row < num_rows) & (column < D)
    gradient = tl.zeros([ROWS, BLOCK_D], tl.float32)
    if second_weights is not None:
        states = tl.load(sums + row * sums_stride + column, mask=inside, other=0.0).to(tl.float32)
        given = tl.load(by_normed + row * D + column, mask=inside, other=0.0).to(tl.float32)
        weights = tl.load(second_weights + column, mask=column < D, other=0.0).to(tl.float32)
        gradient = norm_gradient(states, given, weights, second_epsilon, D, SECOND_OFFSET)
    if by_sums is not None:
        given = tl.load(by_sums + row * D + column, mask=inside, other=0.0).to(tl.float32)
        gradient += given
    tl.store(by_residual + row * D + column, gradient.to(TYPE), mask=inside)
    if first_weights is not None:
        states = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
        weights = tl.load(first_weights + column, mask=column < D, other=0.0).to(tl.float32)
        gradient = norm_gradient(states, gradient, weights, first_epsilon, D, FIRST_OFFSET)
        tl.store(by_x + row * D + column, gradient.to(TYPE), mask=inside)
