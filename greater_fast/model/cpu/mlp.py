"""Gated MLPs on a CPU, by csrc/math/gated_mlp.cpp, with the gradient by their inputs."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from greater_fast.model.cpu.extension import gate_backward, gated_mlp, linears_backward
from greater_fast.model.cpu.host_memory import new_array
from greater_fast.model.cpu.linear import Parameters, is_taken, parameters_of
from greater_fast.model.forwards import (
    Forward,
    inputs_like,
    is_equal,
    is_untouched,
    needs_gradient,
    tried,
)

_ACTIVATIONS = ("silu", "gelu_tanh")
_LAYERS = ("gate_proj", "up_proj", "down_proj")


class _MLP(NamedTuple):
    """down(activation(gate(x)) * up(x)), by layers in this order."""

    layers: list[Parameters]
    activation: str


def mlp_forward(module: nn.Module) -> Forward | None:
    """Ours in place of an MLP's forward, or None where it is of another form; it is tried."""
    layers = [layer for name in _LAYERS if is_taken(layer := getattr(module, name, None))]
    if len(layers) < len(_LAYERS) or not is_untouched(module):
        return None
    return tried(lambda: _found(module, layers))


def _found(module: Any, layers: list[nn.Linear]) -> Forward | None:
    weight = layers[0].weight
    inputs = inputs_like(weight.shape[1], weight)
    # Each row takes the activation as far as a place of its own: near 0 all of them look alike, and
    # some are cut off far out.
    reach = torch.logspace(-1, 3, inputs.shape[1], dtype=weight.dtype)[:, None]
    inputs *= reach / module.gate_proj(inputs).abs().amax(-1, keepdim=True)
    own = module(inputs)
    for activation in _ACTIVATIONS:
        mlp = _MLP([parameters_of(layer) for layer in layers], activation)
        if is_equal(_forward(mlp, inputs), own):
            return functools.partial(_forward, mlp)
    return None


def _forward(mlp: _MLP, inputs: torch.Tensor) -> torch.Tensor:
    rows = inputs.reshape(-1, inputs.shape[-1])
    if needs_gradient(inputs):
        outputs: torch.Tensor = _GatedMLP.apply(rows, mlp)  # type: ignore[no-untyped-call]
    else:
        outputs, _, _ = _outputs(rows, mlp, kept=False)
    return outputs.view(*inputs.shape[:-1], outputs.shape[-1])


def _outputs(rows: torch.Tensor, mlp: _MLP, kept: bool) -> tuple[torch.Tensor, ...]:
    """Outputs, and what gate and up gave where it is `kept`; else hidden states take its place."""
    widths, dtype = [len(layer.weights) for layer in mlp.layers], mlp.layers[0].weights.dtype
    gate, up, outputs = (new_array((len(rows), width), dtype) for width in widths)
    hidden = new_array(gate.shape, dtype) if kept else gate
    inputs = rows.detach().contiguous().numpy()
    gated_mlp(inputs, mlp.layers, [gate, up, hidden], outputs, mlp.activation)
    return torch.from_numpy(outputs), torch.from_numpy(gate), torch.from_numpy(up)


class _GatedMLP(torch.autograd.Function):
    """Keeps what its first two layers give: hidden states are made again."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, mlp: _MLP) -> torch.Tensor:
        outputs, *states = _outputs(rows, mlp, kept=True)
        ctx.save_for_backward(*states)
        ctx.mlp = mlp
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        mlp: _MLP = ctx.mlp
        gate_weights, up_weights, down_weights = (layer.weights for layer in mlp.layers)
        gate, up = (tensor.detach().numpy() for tensor in ctx.saved_tensors)
        by_up, by_gate = (new_array(gate.shape, gate.dtype) for _ in range(2))
        linears_backward([(gradient.detach().contiguous().numpy(), down_weights)], by_up)
        gate_backward(gate, up, by_up, by_gate, mlp.activation)
        by_rows = new_array((len(gate), gate_weights.shape[1]), gate.dtype)
        linears_backward([(by_gate, gate_weights), (by_up, up_weights)], by_rows)
        return torch.from_numpy(by_rows), None
