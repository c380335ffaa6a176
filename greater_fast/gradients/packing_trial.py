"""Whether a model runs over packed suffixes, forward and back: tried, not assumed."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch

from greater_fast.gradients.example_loss import Terms
from greater_fast.gradients.gradient_pass import (
    ExampleSequence,
    StatesOf,
    WholePass,
    packed_states,
)
from greater_fast.model.attention_interface import obstacle_of, rotates_by_length
from greater_fast.model.byte_sizes import is_out_of_memory
from greater_fast.model.far_attention import far_obstacle
from greater_fast.model.kv_cache import num_layers
from greater_fast.model.lm import LM
from greater_fast.model.quantised import gradient_everywhere

_log = logging.getLogger("greater_fast")

# Tokens of a sequence, and before its place. Kernels take 32 keys at a time or more, and go wrong
# at the edges if anywhere; one prefix ends in its first block of keys, the other in its second.
_SEQUENCES = ((34, 25), (33, 14))
# Most that may differ, relative to a vector's length. In 16 bits rounding alone makes, in steps of
# the type and times the root of the layers, 0.5 in states and 1.2 in gradients (SmolLM2-135M), and
# one wrong layer 3 and 2.7 at least.
_EXACT, _STATES, _GRADIENTS = 1e-3, 1.5, 2.5


def can_pack(lm: LM, longest: int | None = None, kernels: str = "auto") -> bool:
    """Whether a model runs over packed suffixes; where it does not, the reason is logged."""
    reason = why_not(lm, longest, kernels)
    if reason is not None:
        _log.warning("gradient: whole sequences, which takes longer (%s)", reason)
    return reason is None


def why_not(lm: LM, longest: int | None = None, kernels: str = "auto") -> str | None:
    """Why a model cannot run over packed suffixes, or None where it can.

    States and gradients of two sequences are compared with those of the model's own pass of each;
    what no short sequence shows is tried up to `longest`, the tokens of a sequence at most.

    Raises:
        MemoryError: it ends while they are compared.
    """
    if rotates_by_length(lm, longest):
        return "its rotary embedding depends on the length of the sequence"
    batch = _batch(lm)
    try:
        found = _states_and_gradients(lm, batch, packed_states(lm, batch, [None, None], kernels))
        alone = [_states_and_gradients(lm, [s], WholePass(lm).states([s])) for s in batch]
    except Exception as error:  # whatever the model's own code raises
        if is_out_of_memory(error):
            num_tokens = sum(len(s.suffix_ids) for s in batch)
            raise MemoryError(
                f"{lm.device} has no memory for the gradient of {num_tokens} tokens: lower "
                "kv_cache_bytes, or use a smaller model"
            ) from error
        return obstacle_of(error)
    (states, gradients), (own_states, own_gradients) = (
        found,
        map(torch.cat, zip(*alone, strict=True)),
    )
    if not _alike(lm, states, own_states, _STATES):
        return "a packed forward pass differs from its own"
    if not _alike(lm, gradients, own_gradients, _GRADIENTS):
        return "a packed backward pass differs from its own"
    try:
        return far_obstacle(lm, longest)
    except Exception as error:  # whatever the model's own code raises
        return obstacle_of(error)


def _batch(lm: LM) -> list[ExampleSequence]:
    ids = lm.vocabulary.ids(" the answer is that one plus two and then some more of it") * 8
    return [
        ExampleSequence(
            row=number,
            ids=tuple(ids[number : number + length + 1]),  # the last one is no input
            place=place,
            read_rows=tuple(range(place, length)),
            terms=Terms((), 0.0, (ids[0],)),
        )
        for number, (length, place) in enumerate(_SEQUENCES)
    ]


def _states_and_gradients(
    lm: LM, batch: Sequence[ExampleSequence], way: AbstractContextManager[StatesOf]
) -> tuple[torch.Tensor, torch.Tensor]:
    """States [R, D] as read, and the gradients [B, D] at the places of a drawn sum of them."""
    leaf = lm.embed(torch.tensor([s.ids[s.place] for s in batch], device=lm.device))
    leaf = leaf.detach().requires_grad_()
    with torch.enable_grad(), way as states_of:
        states = states_of(leaf)  # [R, D]
        factors = [_drawn(s.row, len(s.read_rows), states) for s in batch]
        with gradient_everywhere():
            (gradients,) = torch.autograd.grad(states, leaf, torch.cat(factors))
    return states.detach(), gradients


def _drawn(seed: int, num_rows: int, like: torch.Tensor) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, like.shape[1], generator=source).to(like)


def _alike(lm: LM, found: torch.Tensor, own: torch.Tensor, steps: float) -> bool:
    """Whether vectors [..., D] are the same but for rounding, each relative to its length."""
    rounding = steps * torch.finfo(own.dtype).eps * math.sqrt(num_layers(lm) + 2)
    distances, lengths = (x.double().norm(dim=-1) for x in (found - own, own))
    return bool((distances <= max(_EXACT, rounding) * lengths).all())
