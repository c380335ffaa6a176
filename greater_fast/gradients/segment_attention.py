"""Attention over a packed row in plain torch, one segment after another: any device and type.

Where neither csrc nor the Triton kernel runs: on MPS and XPU, in float64 on a GPU, with keys and
values of different sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from greater_fast.gradients.segments import Segment
from greater_fast.model.attention.interface import AttentionOptions

_ALIGNMENT = 8  # of a bias's rows: torch's memory-efficient attention copies any other


class SegmentAttention:
    """Attention over the segments of one row, of which `read_rows` [R] are read at the end.

    Layers share what hides keys, and with it what autograd keeps of it.
    """

    def __init__(self, segments: Sequence[Segment], read_rows: torch.Tensor) -> None:
        self._segments, self._read_rows = segments, read_rows
        self._biases: dict[tuple[int, int, bool], torch.Tensor] = {}

    def attend(
        self,
        layer: int,
        states: Sequence[torch.Tensor],
        options: AttentionOptions,
        *,
        is_last: bool,
    ) -> torch.Tensor:
        """Attention [M, H, D] of a layer's queries [H, M, D], keys and values [KV, M, D].

        The last layer attends for the rows that are read alone; the others come out as zero.
        """
        queries = self._split(states[0])
        if is_last:
            num_read = [len(segment.read_rows) for segment in self._segments]
            queries = torch.split(states[0][:, self._read_rows], num_read, dim=1)
        own = zip(self._segments, queries, *map(self._split, states[1:]), strict=True)
        outputs = []
        for number, (segment, asking, keys, values) in enumerate(own):
            if asking.shape[1] > 0:
                if segment.prefix:
                    before = segment.prefix.layer(layer)
                    keys, values = (
                        torch.cat(x, 1) for x in zip(before, (keys, values), strict=True)
                    )
                bias = self._bias(number, options.window, is_last, asking)
                outputs.append(_grouped_attention(asking, keys, values, bias, options))
        if not is_last:
            return torch.cat(outputs)
        num_heads, num_tokens, _ = states[0].shape
        nothing = states[0].new_zeros(num_tokens, num_heads, states[2].shape[-1])
        return nothing.index_copy(0, self._read_rows, torch.cat(outputs)) if outputs else nothing

    def _split(self, states: torch.Tensor) -> Sequence[torch.Tensor]:
        """States [heads, M, D] by segments: the gradients of all are put together in one go."""
        return torch.split(states, [segment.num_tokens for segment in self._segments], dim=1)

    def _bias(self, number: int, window: int, is_last: bool, like: torch.Tensor) -> torch.Tensor:
        """What is added to a segment's scores [T, L]: nothing, or what hides a key."""
        key = (number, window, is_last)
        if key not in self._biases:
            segment = self._segments[number]
            length = segment.num_before + segment.num_tokens
            place = torch.arange(segment.num_before, length, device=like.device)[:, None]
            if is_last:
                place = place[list(segment.read_rows)]
            other = torch.arange(length, device=like.device)
            hidden = other > place
            if window:
                hidden |= other <= place - window
            width = -(-length // _ALIGNMENT) * _ALIGNMENT
            bias = like.new_zeros(len(place), width)[:, :length]
            self._biases[key] = bias.masked_fill_(hidden, torch.finfo(like.dtype).min)
        return self._biases[key]


def _grouped_attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor,
    options: AttentionOptions,
) -> torch.Tensor:
    """Attention [T, H, D] of queries [H, T, D] over keys and values [KV, L, D]."""
    # Heads of a group share expanded keys: beside a bias, a GPU's fast kernels know no other way.
    queries = queries.unflatten(0, (len(keys), -1))  # [KV, G, T, D]
    keys, values = (x[:, None].expand(-1, queries.shape[1], -1, -1) for x in (keys, values))
    if options.soft_cap:  # its scores are computed again for the backward pass, not kept
        output: torch.Tensor = checkpoint(
            _soft_capped_attention,
            *(queries, keys, values, bias, options),
            use_reentrant=False,
            preserve_rng_state=False,
        )
    else:
        output = functional.scaled_dot_product_attention(
            queries, keys, values, bias, scale=options.scale
        )
    return output.flatten(0, 1).transpose(0, 1)


def _soft_capped_attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor,
    options: AttentionOptions,
) -> torch.Tensor:
    """Attention with scores cap · tanh(scores / cap); softmax in at least float32."""
    scores = queries @ keys.transpose(-1, -2) * options.scale
    scores = torch.tanh(scores / options.soft_cap) * options.soft_cap + bias
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return weights.to(values.dtype) @ values
