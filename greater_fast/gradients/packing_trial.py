"""Whether a model runs over packed suffixes, forward and back: tried, not assumed."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence

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
from greater_fast.model.kv_cache import num_layers
from greater_fast.model.lm import LM

_log = logging.getLogger("greater_fast")

# Most that may differ, relative to a vector's length. In 16 bits rounding alone makes, in steps of
# the type and times the root of the layers, 0.5 in states and 1.2 in gradients (SmolLM2-135M), and
# one wrong layer 3 and 2.7 at least.
_EXACT, _STATES, _GRADIENTS = 1e-3, 1.5, 2.5


def can_pack(
    lm: LM, longest: int | None = None, kernels: str = "auto", layers: Layers | None = None
) -> bool:
    """Whether a model runs over packed suffixes; where it does not, the reason is logged."""
    reason = why_not(lm, longest, kernels, layers)
    if reason is not None:
        _log.warning("gradient: whole sequences, which takes longer (%s)", reason)
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
        alone = [states_and_gradients(lm, [s], WholePass(lm).states([s])) for s in batch]
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


def _alike(lm: LM, found: torch.Tensor, own: torch.Tensor, steps: float) -> bool:
    """Whether vectors [..., D] are the same but for rounding, each relative to its length."""
    rounding = steps * torch.finfo(own.dtype).eps * math.sqrt(num_layers(lm) + 2)
    distances, lengths = (x.double().norm(dim=-1) for x in (found - own, own))
    return bool((distances <= max(_EXACT, rounding) * lengths).all())
