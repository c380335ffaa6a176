"""RMS norms with the residual add before them, and their gradient by the inputs, a launch each.

    sums   = residual + first(x)
    normed = second(sums),   norm(x) = x / sqrt(mean(x^2) + epsilon) * (offset + weights)

Either norm may be missing, and so may the residual. A program has whole rows, and their number does
not depend on how many there are: a row's bits are its own. Everything is float32 inside.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch.autograd.function import once_differentiable

from greater_fast.kernels.checks import FLOATS, expect, expect_together
from greater_fast.kernels.layers.rms_norm_kernels import (
    rms_norm_backward_kernel,
    rms_norm_kernel,
    sizes,
)

MAX_WIDTH = 1 << 14


class Norm(NamedTuple):
    """An RMS norm: frozen `weights` [D]; it `rounds` x to its type before it is weighted."""

    weights: torch.Tensor
    epsilon: float
    offset: float = 0.0  # of the weights: 0 for Llama's, 1 for Gemma's
    rounds: bool = False


def rms_norm(x: torch.Tensor, norm: Norm) -> torch.Tensor:
    """`norm(x)` of rows [M, D], in their type; differentiable by `x`.

    Raises:
        ValueError: shapes, strides or dtypes that do not fit together, or D over 16384.
    """
    _, normed = _apply(x, None, None, norm)
    assert normed is not None
    return normed


def add_norms(
    x: torch.Tensor, residual: torch.Tensor, first: Norm | None, second: Norm | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`residual + first(x)` [M, D], and `second` of it; a norm that is None is left out.

    Differentiable by `x` and `residual` [M, D].

    Raises:
        ValueError: as `rms_norm`.
    """
    sums, normed = _apply(x, residual, first, second)
    assert sums is not None
    return sums, normed


def _apply(
    x: torch.Tensor, residual: torch.Tensor | None, first: Norm | None, second: Norm | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    _check(x, residual, first, second)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, residual)):
        found: tuple[torch.Tensor | None, torch.Tensor | None]
        found = _AddNorms.apply(x, residual, first, second)  # type: ignore[no-untyped-call]
        return found
    return _forward(x, residual, first, second)


def _check(
    x: torch.Tensor, residual: torch.Tensor | None, first: Norm | None, second: Norm | None
) -> None:
    if x.ndim != 2 or x.dtype not in FLOATS or not 0 < x.shape[1] <= MAX_WIDTH:
        raise ValueError(
            f"x: got {x.dtype} {tuple(x.shape)}, expected [M, D] float32, bfloat16 or float16 "
            f"with D from 1 to {MAX_WIDTH}"
        )
    expect("x", x, tuple(x.shape), x.dtype)
    tensors = [x]
    if residual is not None:
        expect("residual", residual, tuple(x.shape), x.dtype)
        tensors.append(residual)
    for name, norm in (("first", first), ("second", second)):
        if norm is not None:
            expect(f"weights of the {name} norm", norm.weights, (x.shape[1],), x.dtype)
            tensors.append(norm.weights)
    expect_together(*tensors)


def _forward(
    x: torch.Tensor, residual: torch.Tensor | None, first: Norm | None, second: Norm | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Sums, unless nothing is added, and normed rows, unless nothing is normed."""
    sums = None if residual is None else _rows_like(x)
    normed = None if second is None else _rows_like(x)
    with torch.cuda.device_of(x):
        rms_norm_kernel[_grid(x)](
            *(x, residual, sums, normed, *_weights(first, second)),
            *(x.stride(0), 0 if residual is None else residual.stride(0), len(x)),
            *_epsilons(first, second),
            **_forms(first, second),
            **sizes(x.shape[1]),
        )
    return sums, normed


def _rows_like(x: torch.Tensor) -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _grid(x: torch.Tensor) -> tuple[int]:
    return (triton.cdiv(len(x), sizes(x.shape[1])["ROWS"]),)


def _weights(*norms: Norm | None) -> list[torch.Tensor | None]:
    return [None if norm is None else norm.weights for norm in norms]


def _epsilons(*norms: Norm | None) -> list[float]:
    return [0.0 if norm is None else norm.epsilon for norm in norms]


def _forms(first: Norm | None, second: Norm | None) -> dict[str, float | bool]:
    forms: dict[str, float | bool] = {}
    for name, norm in (("FIRST", first), ("SECOND", second)):
        forms[f"{name}_OFFSET"] = 0.0 if norm is None else float(norm.offset)
        forms[f"{name}_ROUNDS"] = norm is not None and norm.rounds
    return forms


class _AddNorms(torch.autograd.Function):
    """Keeps what its norms read, and nothing else."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        residual: torch.Tensor | None,
        first: Norm | None,
        second: Norm | None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        sums, normed = _forward(x, residual, first, second)
        ctx.norms = first, second
        read = x if sums is None else sums
        ctx.save_for_backward(None if first is None else x, None if second is None else read)
        return sums, normed

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_sums: torch.Tensor | None, by_normed: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        first, second = ctx.norms
        x, sums = ctx.saved_tensors
        given = by_sums if by_normed is None else by_normed
        assert given is not None
        by_sums, by_normed = (None if g is None else g.contiguous() for g in (by_sums, by_normed))
        if first is None and second is None:
            return by_sums, by_sums, None, None
        by_residual = _rows_like(given)
        by_x = by_residual if first is None else _rows_like(given)
        with torch.cuda.device_of(given):
            rms_norm_backward_kernel[_grid(given)](
                *(x, sums, by_sums, by_normed),
                *(by_residual, None if first is None else by_x, *_weights(first, second)),
                *(0 if x is None else x.stride(0), 0 if sums is None else sums.stride(0)),
                *(len(given), *_epsilons(first, second)),
                FIRST_OFFSET=0.0 if first is None else float(first.offset),
                SECOND_OFFSET=0.0 if second is None else float(second.offset),
                **sizes(given.shape[1]),
            )
        return by_x, by_residual if ctx.needs_input_grad[1] else None, None, None
