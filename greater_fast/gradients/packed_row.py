"""Several examples' tokens packed into one row, without padding, each behind its own prefix.

The attention of a layer over such a row: a token attends to its example's prefix, whose keys and
values are constants, and to the tokens of its example up to itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from greater_fast.model.attention_interface import AttentionOptions, passed, read_options
from greater_fast.model.cpu import attention as cpu_attention
from greater_fast.model.kv_cache import Blocks

_ALIGNMENT = 8  # of a bias's rows: torch's memory-efficient attention copies any other

KeysValues = tuple[torch.Tensor, torch.Tensor]


class Prefix(Protocol):
    """Keys and values of the tokens before a place; constants."""

    @property
    def num_tokens(self) -> int:
        """How many tokens."""

    def blocks(self, index: int) -> Blocks:
        """A layer's keys and values as they are stored."""

    def layer(self, index: int) -> KeysValues:
        """Keys and values [KV, num_tokens, D] of a layer."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One example's tokens in the packed row.

    `read_rows`, rising, are those of its tokens whose last states are wanted, counted from its
    first; `kept`, where there is one, takes each layer's keys and values, the prefix included.
    """

    num_tokens: int
    prefix: Prefix | None
    read_rows: Sequence[int] = ()
    kept: dict[int, KeysValues] | None = None

    @property
    def num_before(self) -> int:
        """Tokens of the prefix."""
        return self.prefix.num_tokens if self.prefix else 0


class PackedRow:
    """Segments side by side: M tokens at `positions` [M], of which `read_rows` [R] are read."""

    def __init__(self, segments: Sequence[Segment], num_layers: int, device: torch.device) -> None:
        self.segments = segments
        self._starts = [0]
        for segment in segments:
            self._starts.append(self._starts[-1] + segment.num_tokens)
        self.num_tokens = self._starts.pop()
        places = [range(s.num_before, s.num_before + s.num_tokens) for s in segments]
        read = [
            start + row
            for start, segment in zip(self._starts, segments, strict=True)
            for row in segment.read_rows
        ]
        self.positions, self.read_rows = (
            torch.tensor(rows, dtype=torch.int64, device=device)
            for rows in ([place for each in places for place in each], read)
        )
        self._last_layer = num_layers - 1
        self._biases: dict[tuple[int, int, bool], torch.Tensor] = {}

    def attend(
        self, layer: int, states: Sequence[torch.Tensor], options: AttentionOptions
    ) -> torch.Tensor:
        """Attention [M, H, D] of a layer's queries [H, M, D], keys and values [KV, M, D].

        The last layer may attend for the rows that are read alone; the others come out as zero.
        """
        self._keep(layer, states)
        if not cpu_attention.takes(states[0]):
            return self._attend_by_segment(layer, states, options)
        rows = [tensor.transpose(0, 1) for tensor in states]
        prefixes = [
            (s.prefix.blocks(layer), s.num_before) if s.prefix and s.num_before else None
            for s in self.segments
        ]
        return cpu_attention.cpu_attention(rows, self._starts, prefixes, options)

    def _keep(self, layer: int, states: Sequence[torch.Tensor]) -> None:
        """Store keys and values of the segments that ask for them."""
        if any(segment.kept is not None for segment in self.segments):
            own = zip(self.segments, *(self._split(x) for x in states[1:]), strict=True)
            for segment, *parts in own:
                if segment.kept is not None:
                    keys, values = _behind_prefix(segment, layer, parts)
                    segment.kept[layer] = keys.contiguous(), values.contiguous()

    def _split(self, states: torch.Tensor) -> Sequence[torch.Tensor]:
        """States [heads, M, D] by segments: the gradients of all are put together in one go."""
        return torch.split(states, [segment.num_tokens for segment in self.segments], dim=1)

    def _attend_by_segment(
        self, layer: int, states: Sequence[torch.Tensor], options: AttentionOptions
    ) -> torch.Tensor:
        is_last = layer == self._last_layer
        queries = self._split(states[0])
        if is_last:
            num_read = [len(segment.read_rows) for segment in self.segments]
            queries = states[0][:, self.read_rows].split(num_read, dim=1)
        own = zip(self.segments, queries, *(self._split(x) for x in states[1:]), strict=True)
        outputs = []
        for number, (segment, asking, *parts) in enumerate(own):
            if asking.shape[1] > 0:
                keys, values = _behind_prefix(segment, layer, parts)
                bias = self._bias(number, options.window, is_last, asking)
                outputs.append(_grouped_attention(asking, keys, values, bias, options))
        if not is_last:
            return torch.cat(outputs)
        nothing = states[0].new_zeros(self.num_tokens, len(states[0]), states[2].shape[-1])
        return nothing.index_copy(0, self.read_rows, torch.cat(outputs)) if outputs else nothing

    def _bias(self, number: int, window: int, is_last: bool, like: torch.Tensor) -> torch.Tensor:
        """What is added to a segment's scores [T, L]: nothing, or what hides a key.

        Layers share it, and with it what autograd keeps of it.
        """
        key = (number, window, is_last)
        if key not in self._biases:
            segment = self.segments[number]
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


def _behind_prefix(segment: Segment, layer: int, states: Sequence[torch.Tensor]) -> KeysValues:
    """Keys and values [KV, L, D] of a segment, its prefix's before its own."""
    keys, values = states
    if segment.prefix:
        before = segment.prefix.layer(layer)
        keys, values = (torch.cat(x, 1) for x in zip(before, states, strict=True))
    return keys, values


def attend_in_row(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer over the `packed_row` among its options, as transformers calls it.

    Raises:
        ValueError: an argument whose meaning is not known here.
    """
    row: PackedRow = passed(options, "packed_row")
    known = read_options(query, attention_mask, options)
    return row.attend(module.layer_idx, (query[0], key[0], value[0]), known)[None], None


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
