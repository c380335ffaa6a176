"""The model's linear layers on a CPU, by csrc, in rollouts and in the gradient pass.

A step has a few dozen rows and an example of the gradient pass little more, too few for a general
matrix product to reach the machine's rate, and there a row's bits depend on how many others there
are. Ours is fast from 16 rows on, and a row's result is its own.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, TypeGuard

import torch
from numpy.typing import NDArray
from torch import nn
from torch.autograd.function import once_differentiable

from greater_fast.model.cpu.extension import linear, linear_backward
from greater_fast.model.cpu.host_memory import new_array
from greater_fast.model.forwards import replaced_forwards
from greater_fast.model.lm import LM


class CPULinears:
    """The linear layers of a model that can be taken over; weights are shared, not copied.

    Taken over: `torch.nn.Linear` as it is (neither a class derived from it, nor a layer that was
    given another forward), on a CPU, dense, in float32 or float64, and of `modules`, by default all
    of the model's. `are_all` says that no other layer multiplies by a matrix. Weights changed in
    place are seen, replaced ones are not.
    """

    def __init__(self, lm: LM, modules: Iterable[nn.Module] | None = None) -> None:
        _ = lm.head  # known from now on: what is taken over no longer looks plain
        embedding = lm.model.get_input_embeddings()
        with_matrix = [
            module
            for module in lm.model.modules()
            if module is not embedding and any(p.ndim > 1 for p in module.parameters(recurse=False))
        ]
        self._forwards = [
            (module, functools.partial(_forward, *_arrays(module)))
            for module in (lm.model.modules() if modules is None else modules)
            if _is_plain(module) and _is_dense(module)
        ]

        self.are_all = len(self._forwards) == len(with_matrix)

    def installed(self) -> AbstractContextManager[None]:
        """Within, the layers run here; a gradient reaches their inputs, and no parameter."""
        return replaced_forwards(self._forwards)


def _is_plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    return type(module) is nn.Linear and "forward" not in vars(module)


def _is_dense(module: nn.Linear) -> bool:
    weight, bias = module.weight, getattr(module, "bias", None)
    return all(
        type(tensor) in (torch.Tensor, nn.Parameter)  # no quantised subclass
        and tensor.device.type == "cpu"
        and tensor.dtype in (torch.float32, torch.float64)
        and tensor.dtype == weight.dtype
        and tensor.is_contiguous()
        for tensor in (weight, bias)
        if tensor is not None
    )


def _arrays(module: nn.Linear) -> tuple[NDArray[Any], NDArray[Any] | None]:
    bias = getattr(module, "bias", None)
    return module.weight.detach().numpy(), None if bias is None else bias.detach().numpy()


def _forward(
    weights: NDArray[Any], bias: NDArray[Any] | None, inputs: torch.Tensor
) -> torch.Tensor:
    rows = inputs.reshape(-1, inputs.shape[-1])
    outputs: torch.Tensor = _Linear.apply(rows, weights, bias)  # type: ignore[no-untyped-call]
    return outputs.view(*inputs.shape[:-1], weights.shape[0])


class _Linear(torch.autograd.Function):
    """`inputs` [M, K] -> [M, N]; numpy's arrays are the frozen parameters."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weights: NDArray[Any], bias: NDArray[Any] | None
    ) -> torch.Tensor:
        ctx.weights = weights
        outputs = new_array((len(inputs), weights.shape[0]), weights.dtype)
        linear(inputs.detach().contiguous().numpy(), weights, bias, outputs)
        return torch.from_numpy(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        input_gradients = new_array((len(gradient), ctx.weights.shape[1]), ctx.weights.dtype)
        linear_backward(gradient.detach().contiguous().numpy(), ctx.weights, input_gradients)
        return torch.from_numpy(input_gradients), None, None
