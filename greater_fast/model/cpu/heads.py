"""An attention module's products and its rotary embedding on a CPU, by csrc/math/rotary.cpp.

What stands between them, the attention itself, stays what the model's configuration names.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from greater_fast.model.attention.call import kept, read_call, recorded
from greater_fast.model.cpu.extension import linears_backward, turn_back, turned_linears
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
from greater_fast.model.lm import LM

_LAYERS = ("q_proj", "k_proj", "v_proj")
_NUM_TURNED = 2  # of the layers: queries and keys

Turns = tuple[torch.Tensor, torch.Tensor]


class _Heads(NamedTuple):
    """The layers that make queries, keys and values, and how the module calls its attention."""

    layers: list[Parameters]
    head_size: int
    options: dict[str, Any]
    own: Forward


def heads_forward(lm: LM, module: Any) -> Forward | None:
    """Ours in place of an attention module's forward, or None where it is of another form.

    It is tried: an attention function must get the same states and options from both.
    """
    layers = [layer for name in _LAYERS if is_taken(layer := getattr(module, name, None))]
    if len(layers) < len(_LAYERS) or not is_untouched(module):
        return None
    return tried(lambda: _found(lm, module, [parameters_of(layer) for layer in layers]))


def _found(lm: LM, module: Any, layers: list[Parameters]) -> Forward | None:
    inputs = inputs_like(layers[0].weights.shape[1], torch.from_numpy(layers[0].weights[:0]))
    source = torch.Generator().manual_seed(1)
    turns = torch.randn(2, inputs.shape[1], module.head_dim, generator=source).to(inputs.dtype)
    arguments = {
        "hidden_states": inputs,
        "position_embeddings": tuple(turns[:, None]),
        "attention_mask": None,
        "use_cache": False,
    }
    first, own = recorded(lm, module.forward, arguments)
    heads = _Heads(layers, module.head_dim, kept(first.options), module.forward)
    forward = functools.partial(_forward, module, heads)
    second, ours = recorded(lm, forward, arguments)
    same = first.options == second.options and is_equal(ours, own)
    return forward if same and all(map(is_equal, second.states, first.states)) else None


def _forward(module: Any, heads: _Heads, *arguments: Any, **options: Any) -> Any:
    """The module's forward; its own where it is called in another way than engines call it."""
    call = read_call(module, arguments, options)
    if call is None:
        return heads.own(*arguments, **options)
    cos, sin = (part[0] for part in call.turns)
    # Fewer turns than a head has places turn its first ones alone (a partial rotary embedding).
    if cos.shape[-1] != heads.head_size or cos.dtype != call.inputs.dtype:
        return heads.own(*arguments, **options)
    num_rows = call.inputs.shape[1]
    states = (
        states.view(1, num_rows, -1, heads.head_size).transpose(1, 2)
        for states in _states(call.inputs[0], heads.layers, (cos, sin))
    )
    found, weights = call.attend(module, *states, call.mask, **heads.options, **call.options)
    return module.o_proj(found.reshape(1, num_rows, -1)), weights


def _states(
    rows: torch.Tensor, layers: Sequence[Parameters], turns: Turns
) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values [M, width] of rows [M, K]."""
    if needs_gradient(rows):
        states: tuple[torch.Tensor, ...] = _TurnedLinears.apply(rows, layers, turns)  # type: ignore[no-untyped-call]
        return states
    return _outputs(rows, layers, turns)


def _outputs(
    rows: torch.Tensor, layers: Sequence[Parameters], turns: Turns
) -> tuple[torch.Tensor, ...]:
    outputs = [new_array((len(rows), len(w)), w.dtype) for w, _ in layers]
    parts = [(*layer, to) for layer, to in zip(layers, outputs, strict=True)]
    turned_linears(rows.detach().contiguous().numpy(), parts, _NUM_TURNED, _arrays(turns))
    return tuple(map(torch.from_numpy, outputs))


def _arrays(turns: Turns) -> tuple[Any, Any]:
    cos, sin = (tensor.detach().contiguous().numpy() for tensor in turns)
    return cos, sin


class _TurnedLinears(torch.autograd.Function):
    """Keeps nothing but the turns, which all layers share."""

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, layers: Sequence[Parameters], turns: Turns
    ) -> tuple[torch.Tensor, ...]:
        ctx.layers, ctx.turns = layers, turns
        return _outputs(rows, layers, turns)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        weights = [layer.weights for layer in ctx.layers]
        by_states = [gradient.detach().contiguous().numpy() for gradient in gradients]
        turned = [new_array(array.shape, array.dtype) for array in by_states[:_NUM_TURNED]]
        turn_back(list(zip(by_states, turned, strict=False)), _arrays(ctx.turns))
        by_states[:_NUM_TURNED] = turned
        by_rows = new_array((len(by_states[0]), weights[0].shape[1]), weights[0].dtype)
        linears_backward(list(zip(by_states, weights, strict=True)), by_rows)
        return torch.from_numpy(by_rows), None, None
