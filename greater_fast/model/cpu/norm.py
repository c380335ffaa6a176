"""RMS norms on a CPU, by csrc/math/rms_norm.cpp, with the gradient by their inputs."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import nn
from torch.autograd.function import once_differentiable

from greater_fast.model.cpu.extension import rms_norm, rms_norm_backward
from greater_fast.model.cpu.host_memory import new_array
from greater_fast.model.cpu.linear import is_dense
from greater_fast.model.forwards import (
    Forward,
    inputs_like,
    is_equal,
    is_untouched,
    needs_gradient,
    tried,
)

_EPSILONS = ("variance_epsilon", "eps")
_OFFSETS = (0.0, 1.0)  # of the weights: Llama's, Gemma's


class _Norm(NamedTuple):
    """x / sqrt(mean(x^2) + epsilon) * (offset + weights)."""

    weights: NDArray[Any]
    epsilon: float
    offset: float


def norm_forward(module: nn.Module) -> Forward | None:
    """Ours in place of a norm's forward, or None where it is no RMS norm, or in another precision.

    Its own numbers are compared, on rows so small that the epsilon counts and on large ones.
    """
    if [name for name, _ in module.named_parameters()] != ["weight"] or not is_untouched(module):
        return None
    return tried(lambda: _found(module))


def _found(module: Any) -> Forward | None:
    weight = module.weight
    if not (is_dense(weight) and weight.ndim == 1):
        return None
    inputs = inputs_like(len(weight), weight)
    own = module(inputs)
    for epsilon in {getattr(module, name) for name in _EPSILONS if hasattr(module, name)}:
        for offset in _OFFSETS:
            norm = _Norm(weight.detach().numpy(), float(epsilon), offset)
            if is_equal(_forward(norm, inputs), own):
                return functools.partial(_forward, norm)
    return None


def _forward(norm: _Norm, inputs: torch.Tensor) -> torch.Tensor:
    rows = inputs.reshape(-1, inputs.shape[-1])
    if needs_gradient(inputs):
        outputs: torch.Tensor = _RMSNorm.apply(rows, norm)  # type: ignore[no-untyped-call]
    else:
        outputs = _outputs(rows, norm)
    return outputs.view(inputs.shape)


def _outputs(rows: torch.Tensor, norm: _Norm) -> torch.Tensor:
    outputs = new_array(rows.shape, norm.weights.dtype)
    arrays = rows.detach().contiguous().numpy(), norm.weights, outputs
    rms_norm(*arrays, norm.epsilon, norm.offset)
    return torch.from_numpy(outputs)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, norm: _Norm) -> torch.Tensor:
        ctx.save_for_backward(rows)
        ctx.norm = norm
        return _outputs(rows, norm)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        weights, epsilon, offset = ctx.norm
        (rows,) = (tensor.detach().contiguous().numpy() for tensor in ctx.saved_tensors)
        by_rows = new_array(rows.shape, rows.dtype)
        gradients = gradient.detach().contiguous().numpy(), by_rows
        rms_norm_backward(rows, weights, gradients, epsilon, offset)
        return torch.from_numpy(by_rows), None
