"""What stands between the products of a gated MLP, `activation(gate) up`, and its gradient.

One launch each way; everything is float32 inside. The gradient makes the activation again: nothing
is kept but what is given.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from greater_fast.kernels.checks import FLOATS, expect, expect_together

ACTIVATIONS = ("silu", "gelu_tanh", "gelu")
_TILE = 1024  # numbers of a program


def gated(gate: torch.Tensor, up: torch.Tensor | None, activation: str) -> torch.Tensor:
    """`activation(gate) up` of rows [M, N], or of `gate` [M, 2N] that holds both, gate first.

    Differentiable by both.

    Raises:
        ValueError: no such activation, or shapes, strides or dtypes that do not fit together.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"got activation {activation!r}, expected one of {', '.join(ACTIVATIONS)}")
    if gate.ndim != 2 or gate.dtype not in FLOATS or (up is None and gate.shape[1] % 2):
        raise ValueError(
            f"gate: got {gate.dtype} {tuple(gate.shape)}, expected [M, N] float32, bfloat16 or "
            "float16, and an even N where it holds both"
        )
    expect("gate", gate, tuple(gate.shape), gate.dtype)
    if up is not None:
        expect("up", up, tuple(gate.shape), gate.dtype)
        expect_together(gate, up)
    outputs: torch.Tensor = _Gated.apply(gate, up, activation)
    return outputs


def _halves(gate: torch.Tensor, up: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    if up is not None:
        return gate, up
    half = gate.shape[1] // 2
    return gate[:, :half], gate[:, half:]


def sizes(width: int) -> dict[str, int]:
    """Sizes of a program, which has parts of rows of `width` numbers, or several rows."""
    block = min(triton.next_power_of_2(width), _TILE)
    return {"N": width, "BLOCK_N": block, "ROWS": _TILE // block}


def _grid(gate: torch.Tensor) -> tuple[int, int]:
    own = sizes(gate.shape[1])
    return triton.cdiv(len(gate), own["ROWS"]), triton.cdiv(own["N"], own["BLOCK_N"])


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gate: torch.Tensor, up: torch.Tensor | None, activation: str
    ) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        gate, up = _halves(gate, up)
        outputs = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
        with torch.cuda.device_of(gate):
            gated_kernel[_grid(gate)](
                *(gate, up, outputs, gate.stride(0), up.stride(0), len(gate)),
                ACTIVATION=activation,
                **sizes(gate.shape[1]),
            )
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        given, other = ctx.saved_tensors
        gate, up = _halves(given, other)
        by_both = torch.empty(len(gate), 2 * gate.shape[1], dtype=gate.dtype, device=gate.device)
        by_gate, by_up = _halves(by_both, None)
        with torch.cuda.device_of(gate):
            gated_backward_kernel[_grid(gate)](
                *(gate, up, by_outputs.contiguous(), by_gate, by_up),
                *(gate.stride(0), up.stride(0), by_gate.stride(0), len(gate)),
                ACTIVATION=ctx.activation,
                **sizes(gate.shape[1]),
            )
        return (by_both, None, None) if other is None else (by_gate, by_up, None)


@triton.jit
def logistic(x):
    """`1 / (1 + exp(-x))`, of any x: no power overflows."""
    power = tl.exp(-tl.abs(x))
    return tl.where(x < 0, power, 1.0) / (1.0 + power)


@triton.jit
def activated(x, ACTIVATION: tl.constexpr):
    """The activation of x and its derivative, in float32."""
    if ACTIVATION == "silu":
        share = logistic(x)
        return x * share, share * (1 + x * (1 - share))
    elif ACTIVATION == "gelu":  # noqa: RET505 (Triton compiles no other form)
        share = 0.5 * (1 + tl.erf(x * 0.7071067811865476))
        return x * share, share + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    else:
        # 0.5 (1 + tanh(y)) is the logistic function of 2 y.
        twice = 1.5957691216057308 * (x + 0.044715 * x * x * x)
        share = logistic(twice)
        slope = 1.5957691216057308 * (1 + 0.134145 * x * x)
        return x * share, share + x * share * (1 - share) * slope


@triton.jit(do_not_specialize=["num_rows"])
def gated_kernel(
    gate,
    up,
    outputs,
    gate_stride,
    up_stride,
    num_rows,
    ACTIVATION: tl.constexpr,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ROWS: tl.constexpr,
):
    """A part of one row, or some short rows."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    inside = (row < num_rows) & (column < N)
    x = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    share, _ = activated(x, ACTIVATION)
    tl.store(outputs + row * N + column, (share * y).to(outputs.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def gated_backward_kernel(
    gate,
    up,
    by_outputs,
    by_gate,
    by_up,
    gate_stride,
    up_stride,
    by_stride,
    num_rows,
    ACTIVATION: tl.constexpr,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ROWS: tl.constexpr,
):
    """A part of one row of both gradients, or some short rows."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    inside = (row < num_rows) & (column < N)
    x = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    given = tl.load(by_outputs + row * N + column, mask=inside, other=0.0).to(tl.float32)
    activation, slope = activated(x, ACTIVATION)
    TYPE: tl.constexpr = by_gate.dtype.element_ty
    tl.store(by_gate + row * by_stride + column, (given * y * slope).to(TYPE), mask=inside)
    tl.store(by_up + row * by_stride + column, (given * activation).to(TYPE), mask=inside)
