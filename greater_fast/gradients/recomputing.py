"""What is computed again on the way back instead of being kept: whole layers, or activations."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from greater_fast.model.forwards import Forward, replaced_forwards
from greater_fast.model.layers import recomputable_layers
from greater_fast.model.lm import LM


def check_recomputable(lm: LM) -> None:
    """Raise ValueError where a model has no layers that can be computed again."""
    if not recomputable_layers(lm.model):
        raise ValueError(f"{lm.name} has no layers to checkpoint: set gradient_checkpointing='off'")


@contextlib.contextmanager
def layers_recomputed(lm: LM) -> Iterator[None]:
    """Keep of each layer its input alone.

    The model stays in eval mode: transformers' own switch asks for train mode, dropout included.

    Raises:
        ValueError: the model has no layers that are made for it.
    """
    check_recomputable(lm)
    layers = recomputable_layers(lm.model)
    recomputed = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    with replaced_forwards([(layer, partial(recomputed, layer.forward)) for layer in layers]):
        yield


@contextlib.contextmanager
def activations_recomputed(lm: LM) -> Iterator[None]:
    """Keep of each MLP's activation function its input alone.

    Autograd keeps the input for the function's own gradient and the output for the product that
    follows; the output costs next to nothing to make again, and takes a fifth of all that is kept.
    """
    made: dict[int, tuple[weakref.ref[torch.Tensor], Any, torch.Tensor]] = {}

    def remember(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if output.requires_grad and inputs:
            made[id(output)] = weakref.ref(output), module, inputs[0].detach()

    def pack(tensor: torch.Tensor) -> Any:
        output, module, states = made.pop(id(tensor), (None, None, None))
        if output is not None and output() is tensor:
            return module, states
        return tensor.detach()  # itself, an output would keep its own graph alive

    def unpack(kept: Any) -> torch.Tensor:
        if isinstance(kept, torch.Tensor):
            return kept
        module, states = kept
        with torch.no_grad():
            made_again: torch.Tensor = module.forward(states)
        return made_again

    def recomputed(forward: Forward) -> Forward:
        def run(*arguments: Any, **named: Any) -> Any:
            with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
                return forward(*arguments, **named)

        return run

    mlps, functions = [], []
    for mlp in lm.model.modules():
        own = [m for name, m in mlp.named_children() if name in ("act_fn", "activation_fn")]
        mlps += [mlp] if own else []
        functions += own
    hooks = [function.register_forward_hook(remember) for function in dict.fromkeys(functions)]
    try:
        with replaced_forwards([(mlp, recomputed(mlp.forward)) for mlp in mlps]):
            yield
    finally:
        for hook in hooks:
            hook.remove()
