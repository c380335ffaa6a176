"""Gated MLPs on a GPU: gate and up in one product, then one launch of kernels/layers/gated.py."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from greater_fast.kernels.layers.gated import ACTIVATIONS, gated
from greater_fast.model.forwards import Forward, inputs_like, is_equal, is_untouched
from greater_fast.model.gpu.merged import merged_biases, merged_weights
from greater_fast.model.gpu.refusal import RefusedError, found_or_refused
from greater_fast.model.lm import LM

_PAIR = ("gate_proj", "up_proj")
_BOTH = "gate_up_proj"
_WIDTHS = (48, 80)  # of the small copy that is tried: states, and inside


@dataclass(frozen=True, slots=True)
class GatedMLP:
    """`down(activation(gate) up)`, where `first` are the layers of gate and up, or one of both.

    `merged` are the weights and the biases of two that were merged.
    """

    first: tuple[Any, ...]
    down: Any
    activation: str
    merged: tuple[torch.Tensor, torch.Tensor | None] | None = None

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The forward of the module that it stands for: [..., D] -> [..., D]."""
        rows = hidden_states.reshape(-1, hidden_states.shape[-1])
        outputs: torch.Tensor = self.down(self._inside(rows))
        return outputs.view(*hidden_states.shape[:-1], outputs.shape[-1])

    def add_to(self, sums: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """`sums` [M, D] with what the MLP gives of `rows` [M, D] added in place, where it can be.

        The last product adds it up in float32 and rounds once: no launch of its own.
        """
        inside = self._inside(rows)
        if _is_plain(self.down):
            return sums.addmm_(inside, self.down.weight.T)
        return sums.add_(self.down(inside))

    def _inside(self, rows: torch.Tensor) -> torch.Tensor:
        if self.merged is not None:
            return gated(F.linear(rows, *self.merged), None, self.activation)
        states = [layer(rows) for layer in self.first]
        return gated(states[0], states[1] if len(states) == 2 else None, self.activation)


def mlp_forward(lm: LM, module: Any) -> Forward | None:
    """Ours in place of a gated MLP's forward, or None where the module is none.

    Its weights for gate and up are merged where they can be (`merged_weights`).

    Raises:
        RefusedError: its own forward gives other numbers, or it cannot be tried.
    """
    names = (_BOTH,) if hasattr(module, _BOTH) else _PAIR
    layers = [getattr(module, name, None) for name in (*names, "down_proj")]
    if not all(isinstance(layer, nn.Module) for layer in layers):
        return None  # experts keep plain tensors under these names
    if not is_untouched(module):
        raise RefusedError("hooked")
    *first, down = layers
    activation = found_or_refused(lambda: _activation(lm, module, names), "of another form")
    mlp = GatedMLP(tuple(first), down, activation)
    found_or_refused(lambda: _is_own(lm, mlp, module) or None, "other numbers in its own type")
    weights = merged_weights(first) if len(first) == 2 else None
    if weights is None:
        return mlp
    has_bias = any(getattr(layer, "bias", None) is not None for layer in first)
    biases = merged_biases(first) if has_bias else None
    if has_bias and biases is None:
        return mlp
    return GatedMLP(mlp.first, down, activation, (weights, biases))


def _activation(lm: LM, module: Any, names: tuple[str, ...]) -> str | None:
    """The activation with which ours gives the numbers of a copy with small layers, in float32.

    Each row takes the activation as far as a place of its own: near 0 all of them look alike, and
    some are cut off far out.
    """
    width, inner = _WIDTHS
    device = lm.device  # packed weights are no parameters
    source = torch.Generator().manual_seed(0)

    def small(num_outputs: int, num_inputs: int) -> nn.Linear:
        layer = nn.Linear(num_inputs, num_outputs, device="cpu", dtype=torch.float32)
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source, device="cpu"))
        return layer.to(device)

    first = [small(inner * (3 - len(names)), width) for _ in names]
    down = small(width, inner)
    own = [getattr(module, name) for name in (*names, "down_proj")]
    memo: dict[int, Any] = {id(old): new for old, new in zip(own, (*first, down), strict=True)}
    memo[id(getattr(module, "config", None))] = getattr(module, "config", None)
    twin = copy.deepcopy(module, memo)
    inputs = inputs_like(width, first[0].weight)
    reach = torch.logspace(-1, 3, inputs.shape[1], device=device)[:, None]
    inputs *= reach / first[0](inputs).abs().amax(-1, keepdim=True)
    expected = twin(inputs)
    for activation in ACTIVATIONS:
        if is_equal(GatedMLP(tuple(first), down, activation)(inputs), expected):
            return activation
    return None


def _is_own(lm: LM, mlp: GatedMLP, module: Any) -> bool:
    """Whether ours gives the numbers of the module itself, of rows as long as a norm makes them.

    In the numbers of the states that go through the model: weights may be packed in others.
    """
    width = getattr(mlp.down, "out_features", None) or len(mlp.down.weight)
    inputs = inputs_like(width, torch.empty(0, dtype=lm.dtype, device=lm.device))
    inputs = inputs / inputs.float().pow(2).mean(-1, keepdim=True).sqrt().to(lm.dtype)
    return is_equal(mlp(inputs), module(inputs))


def _is_plain(layer: Any) -> bool:
    """Whether a layer is one dense matrix and nothing else."""
    return (
        type(layer) is nn.Linear
        and getattr(layer, "bias", None) is None
        and type(layer.weight) in (torch.Tensor, nn.Parameter)
        and "forward" not in vars(layer)
        and not (layer._forward_hooks or layer._forward_pre_hooks)
    )
