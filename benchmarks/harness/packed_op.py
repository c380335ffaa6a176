"""Attention over a packed row, ours beside torch's one segment after another, and its gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from greater_fast.kernels import dispatch
from greater_fast.kernels.attention.packed_reference import Pool, Segments, States
from greater_fast.model.attention.interface import AttentionOptions
from greater_fast.model.cpu.attention import cpu_attention
from greater_fast.model.kv_cache import Blocks

Attend = Callable[..., torch.Tensor]


class PackedArguments(NamedTuple):
    """What the op is given, and the gradient of its outputs [M, H, D]."""

    states: States
    pool: Pool
    segments: Segments
    gradient: torch.Tensor

    @property
    def scale(self) -> float:
        """Of the scores."""
        return float(self.gradient.shape[-1] ** -0.5)


def runner(attend: Attend, arguments: PackedArguments, backward: bool) -> Callable[[], Any]:
    """The outputs, or all gradients by the states side by side."""

    def run() -> torch.Tensor:
        if not backward:
            with torch.no_grad():
                return attend(arguments.states)
        leaves = [state.detach().requires_grad_() for state in arguments.states]
        gradients = torch.autograd.grad(attend(leaves), leaves, arguments.gradient)
        return torch.cat([gradient.flatten() for gradient in gradients])

    return run


def triton_attention(arguments: PackedArguments) -> Attend:
    """kernels/attention/packed.py."""
    _, pool, segments, _ = arguments
    options = (arguments.scale, 0.0, 0)
    return lambda states: dispatch.packed_attention(
        tuple(states), pool, segments, options, "triton"
    )


def csrc_attention(arguments: PackedArguments) -> Attend:
    """csrc/attention/packed_attention.cpp."""
    _, pool, segments, _ = arguments
    starts = segments.starts.tolist()[:-1]
    places = zip(segments.block_ids, segments.prefix_lens, strict=True)
    prefixes = [(Blocks(*pool, list(ids)), size) for ids, size in places]
    options = AttentionOptions(arguments.scale, 0.0, 0)
    return lambda states: cpu_attention(states, starts, prefixes, options)


def torch_attention(arguments: PackedArguments) -> Attend:
    """Each segment's keys behind its prefix's, with a mask that all layers of a pass share."""
    queries, own_keys, _ = arguments.states
    _, pool, segments, _ = arguments
    group = queries.shape[1] // own_keys.shape[1]
    lengths = list(segments.lengths)
    places = []
    for length, size, ids in zip(lengths, segments.prefix_lens, segments.block_ids, strict=True):
        key = torch.arange(size + length, device=queries.device)
        blocks = torch.tensor(list(ids), dtype=torch.int64, device=queries.device)
        places.append((key <= key[size:, None], size, blocks))

    def attend(states: States) -> torch.Tensor:
        outputs = []
        parts = zip(*(state.split(lengths) for state in states), strict=True)
        for (query, *own), (seen, size, blocks) in zip(parts, places, strict=True):
            before = (part[blocks].transpose(0, 1).flatten(1, 2)[:, :size] for part in pool)
            keys, values = (
                torch.cat([old, new.transpose(0, 1)], 1).repeat_interleave(group, 0)
                for old, new in zip(before, own, strict=True)
            )  # [H, L, D]
            outputs.append(
                scaled_dot_product_attention(
                    query.transpose(0, 1), keys, values, seen, scale=arguments.scale
                )
            )
        return torch.cat(outputs, 1).transpose(0, 1)

    return attend
