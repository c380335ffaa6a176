"""The model's linear layers on a CPU, by csrc, in rollouts and in the gradient pass.

A step has a few dozen rows and an example of the gradient pass little more, too few for a general
matrix product to reach the machine's rate, and there a row's bits depend on how many others there
are. Ours is fast from 16 rows on, and a row's result is its own.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeGuard

import torch
from numpy.typing import NDArray
from torch import nn
from torch.autograd.function import once_differentiable

from greater_fast.model.cpu.extension import linear, linears_backward
from greater_fast.model.cpu.host_memory import new_array
from greater_fast.model.forwards import Forward, needs_gradient, replaced_forwards
from greater_fast.model.lm import LM


class Parameters(NamedTuple):
    """A linear layer's frozen parameters: [N, K], and [N] or none."""

    weights: NDArray[Any]
    bias: NDArray[Any] | None


class CPULinears:
    """The linear layers of a model that can be taken over; weights are shared, not copied.

    Taken over: `torch.nn.Linear` as it is (neither a class derived from it, nor a layer that was
    given another forward), on a CPU, dense, in float32 or float64. `are_all` says that no other
    layer multiplies by a matrix; `forwards` are pairs of a layer and ours. Weights changed in place
    are seen, replaced ones are not.
    """

    def __init__(self, lm: LM) -> None:
        _ = lm.head  # known from now on: what is taken over no longer looks plain
        embedding = lm.model.get_input_embeddings()
        with_matrix = [
            module
            for module in lm.model.modules()
            if module is not embedding and any(p.ndim > 1 for p in module.parameters(recurse=False))
        ]
        self.forwards: list[tuple[Any, Forward]] = [
            (module, functools.partial(_forward, parameters_of(module)))
            for module in lm.model.modules()
            if is_taken(module)
        ]
        self.are_all = len(self.forwards) == len(with_matrix)

    def installed(self) -> AbstractContextManager[None]:
        """Within, the layers run here; a gradient reaches their inputs, and no parameter."""
        return replaced_forwards(self.forwards)


def is_taken(module: Any) -> TypeGuard[nn.Linear]:
    """Whether a module is a linear layer that can be taken over."""
    if type(module) is not nn.Linear or "forward" in vars(module):
        return False
    weight, bias = module.weight, getattr(module, "bias", None)
    return all(
        is_dense(tensor) and tensor.dtype == weight.dtype
        for tensor in (weight, bias)
        if tensor is not None
    )


def is_dense(tensor: Any) -> bool:
    """Whether csrc can read a parameter: plain numbers in a row on a CPU, in float32 or float64."""
    return (
        type(tensor) in (torch.Tensor, nn.Parameter)  # no quantised subclass
        and tensor.device.type == "cpu"
        and tensor.dtype in (torch.float32, torch.float64)
        and tensor.is_contiguous()
    )


def parameters_of(module: nn.Linear) -> Parameters:
    """A layer's parameters as arrays of the same memory."""
    bias = getattr(module, "bias", None)
    return Parameters(
        module.weight.detach().numpy(), None if bias is None else bias.detach().numpy()
    )


def _forward(layer: Parameters, inputs: torch.Tensor) -> torch.Tensor:
    rows = inputs.reshape(-1, inputs.shape[-1])
    if needs_gradient(inputs):
        outputs: torch.Tensor = _Linear.apply(rows, layer)  # type: ignore[no-untyped-call]
    else:
        outputs = _outputs(rows, layer)
    return outputs.view(*inputs.shape[:-1], len(layer.weights))


def _outputs(rows: torch.Tensor, layer: Parameters) -> torch.Tensor:
    outputs = new_array((len(rows), len(layer.weights)), layer.weights.dtype)
    linear(rows.detach().contiguous().numpy(), *layer, outputs)
    return torch.from_numpy(outputs)


class _Linear(torch.autograd.Function):
    """`rows` [M, K] -> [M, N]."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, layer: Parameters) -> torch.Tensor:
        ctx.weights = layer.weights
        return _outputs(rows, layer)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        by_rows = new_array((len(gradient), ctx.weights.shape[1]), ctx.weights.dtype)
        linears_backward([(gradient.detach().contiguous().numpy(), ctx.weights)], by_rows)
        return torch.from_numpy(by_rows), None
