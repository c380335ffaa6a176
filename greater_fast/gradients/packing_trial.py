"""Whether a model runs over packed suffixes, forward and back: tried, not assumed."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from greater_fast.engine import Layers
from greater_fast.gradients.gradient_pass import (
    ExampleSequence,
    StatesOf,
    WholePass,
    packed_states,
    states_and_gradients,
    trial_batch,
)
from greater_fast.model.attention.far import far_obstacle
from greater_fast.model.attention.interface import obstacle_of, rotates_by_length
from greater_fast.model.byte_sizes import is_out_of_memory
from greater_fast.model.forwards import lengths_of, rounding_step, rounds_coarsely
from greater_fast.model.kv_cache import num_layers
from greater_fast.model.lm import LM
from greater_fast.wording import printable

_log = logging.getLogger("greater_fast")
_Pair = tuple[torch.Tensor, torch.Tensor]  # states and gradients

# Most that may differ, relative to a vector's length. In 16 bits rounding alone makes, in steps of
# the type and times the root of the layers, 0.5 in states and 1.2 in gradients (SmolLM2-135M), and
# one wrong layer 3 and 2.7 at least.
_EXACT, _STATES, _GRADIENTS = 1e-3, 1.5, 2.5
# A wide model may make more of it (random weights of 8B shapes): so many times what its own pass
# differs by where each layer's output is shaken by a step. Two ways of it differ by 0.4 to 1.1 of
# that, in random models of 512 to 2,048 channels and in SmolLM2.
_SHAKEN = 1.5


def can_pack(
    lm: LM, longest: int | None = None, kernels: str = "auto", layers: Layers | None = None
) -> bool:
    """Whether a model runs over packed suffixes; where it does not, the reason is logged."""
    reason = why_not(lm, longest, kernels, layers)
    if reason is not None:
        _log.warning("gradient: whole sequences, which takes longer (%s)", printable(reason))
    return reason is None


def why_not(
    lm: LM, longest: int | None = None, kernels: str = "auto", layers: Layers | None = None
) -> str | None:
    """Why a model cannot run over packed suffixes, or None where it can.

    States and gradients of two sequences are compared with those of the model's own pass of each;
    what no short sequence shows is tried up to `longest`, the tokens of a sequence at most. The
    packed pass runs by `layers`, as that of a step does, the other one by the model's own.

    Raises:
        MemoryError: it ends while they are compared.
    """
    if rotates_by_length(lm, longest):
        return "its rotary embedding depends on the length of the sequence"
    batch = trial_batch(lm)
    try:
        found = states_and_gradients(lm, batch, _packed(lm, batch, kernels, layers))
        own = _own(lm, batch)
        different = _different(lm, found, own)
        if different and rounds_coarsely(own[0]):
            different = _different(lm, found, own, _shaken(lm, batch))
    except Exception as error:  # whatever the model's own code raises
        if is_out_of_memory(error):
            num_tokens = sum(len(s.suffix_ids) for s in batch)
            raise MemoryError(
                f"{lm.device} has no memory for the gradient of {num_tokens} tokens: lower "
                "kv_cache_bytes, or use a smaller model"
            ) from error
        return obstacle_of(error)
    if different:
        return different
    try:
        return far_obstacle(lm, longest)
    except Exception as error:  # whatever the model's own code raises
        return obstacle_of(error)


@contextlib.contextmanager
def _packed(
    lm: LM, batch: Sequence[ExampleSequence], kernels: str, layers: Layers | None
) -> Iterator[StatesOf]:
    """The forward pass over packed suffixes, with prefixes that are computed by the same layers."""
    with (
        layers.installed() if layers else contextlib.nullcontext(),
        packed_states(lm, batch, [None] * len(batch), kernels) as states_of,
    ):
        yield states_of


def _different(lm: LM, found: _Pair, own: _Pair, shaken: _Pair | None = None) -> str | None:
    """How far found states or gradients are from the model's own, where rounding explains it not.

    `shaken` are those of its own pass with its layers' outputs moved.
    """
    rounding = rounding_step(own[0]) * math.sqrt(num_layers(lm) + 2)
    for number, (name, steps) in enumerate((("forward", _STATES), ("backward", _GRADIENTS))):
        allowed = max(_EXACT, steps * rounding)
        if shaken and math.isfinite(explained := _distance(shaken[number], own[number])):
            allowed = max(allowed, _SHAKEN * explained)
        distance = _distance(found[number], own[number])
        if distance > allowed:
            return (
                f"a packed {name} pass differs from its own: by {distance:.2g} of a vector's "
                f"length, and rounding makes {allowed:.2g} at most"
            )
    return None


def _own(lm: LM, batch: Sequence[ExampleSequence]) -> _Pair:
    """States and gradients by the model's own pass of each sequence."""
    alone = [states_and_gradients(lm, [s], WholePass(lm).states([s])) for s in batch]
    states, gradients = zip(*alone, strict=True)
    return torch.cat(states), torch.cat(gradients)


def _shaken(lm: LM, batch: Sequence[ExampleSequence]) -> _Pair:
    """The same with every number between two layers moved by a step of its type at most."""
    source = torch.Generator().manual_seed(0)

    def shake(_: Any, __: Any, output: Any) -> Any:
        states, *others = output if isinstance(output, tuple) else (output,)
        steps = 2 * torch.rand(states.shape, generator=source) - 1
        factors = 1 + rounding_step(states) * steps.to(states.device)
        states = (states * factors).to(states.dtype)
        return (states, *others) if isinstance(output, tuple) else states

    layers = getattr(lm.decoder, "layers", ())
    hooks = [layer.register_forward_hook(shake) for layer in layers]
    try:
        return _own(lm, batch)
    finally:
        for hook in hooks:
            hook.remove()


def _distance(found: torch.Tensor, own: torch.Tensor) -> float:
    """The most that vectors [..., D] differ by, each relative to its length; infinity for NaN."""
    distances, lengths = (lengths_of(x) for x in (found - own, own))
    relative = (distances / lengths.clamp(min=torch.finfo(own.dtype).tiny)).max()
    return float(relative.nan_to_num(math.inf))
