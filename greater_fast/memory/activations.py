"""How much a gradient pass keeps for its way back, and how many tokens it may take at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from greater_fast.config import Config
from greater_fast.memory.shapes import ModelShapes
from greater_fast.model.byte_sizes import free_bytes
from greater_fast.model.lm import LM

# From here on a processor's matrix products are near their rate (measured with csrc's: 160 tokens
# take as long, and a sixth more memory), and a GPU no longer waits for weights alone.
EFFICIENT_TOKENS = 128
GPU_TOKENS = 4096  # more would save nothing
GPU_SHARE = 0.7  # of what is free of a GPU; the rest is for the way back, and for gaps
_CPU_SHARE = 0.25  # of what is free of a machine, which others use too


@dataclass(frozen=True, slots=True)
class PassPlan:
    """Tokens of a micro-batch at most (or one example), and whether layers are computed twice.

    They `may_recompute` where that is left open, should memory end, and the model has such layers.
    """

    max_tokens: int
    checkpointing: bool
    may_recompute: bool = True


def plan_pass(lm: LM, lengths: Sequence[int], config: Config) -> PassPlan:
    """The plan for examples of these lengths.

    Layers are computed twice only where a batch of decent size would not fit otherwise: recomputing
    costs half as much again, small batches cost little.
    """
    own = free_bytes(lm.device)
    free = None if own is None else min(lm.ranks.gathered(own))
    is_cpu = lm.device.type == "cpu"
    shapes = ModelShapes.of(lm)
    usable = math.inf if free is None else free * (_CPU_SHARE if is_cpu else GPU_SHARE)
    given, asked = config.gradient_batch_tokens, config.gradient_checkpointing
    least = max(*lengths, 1, min(given or EFFICIENT_TOKENS, sum(lengths)))
    may_recompute = asked == "auto" and shapes.recomputable
    checkpointing = asked == "on" or (may_recompute and shapes.activation_bytes(least) > usable)
    if given or lm.device.type != "cuda":
        return PassPlan(given or EFFICIENT_TOKENS, checkpointing, may_recompute)
    token_bytes = shapes.activation_bytes(1, checkpointing=checkpointing)
    fitting = max(1, int(min(usable / token_bytes, GPU_TOKENS)))
    return PassPlan(fitting, checkpointing, may_recompute)
