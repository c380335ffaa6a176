"""Several examples' tokens packed into one row, without padding, each behind its own prefix.

The attention of a layer over such a row: a token attends to its example's prefix, whose keys and
values are constants, and to the tokens of its example up to itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch

from greater_fast.gradients.prefix_store import PrefixStore
from greater_fast.gradients.segment_attention import SegmentAttention
from greater_fast.gradients.segments import Segment
from greater_fast.kernels.attention.packed_reference import Pool, Segments
from greater_fast.kernels.dispatch import packed_attention
from greater_fast.model.attention.interface import AttentionOptions, passed, read_options
from greater_fast.model.cpu import attention as cpu_attention
from greater_fast.model.kv_cache import BLOCK_SIZE


class PackedRow:
    """Segments side by side: M tokens at `positions` [M], of which `read_rows` [R] are read.

    Their prefixes lie in one pool. `backend` is who attends, as `choose_attention` says; `store`
    takes the keys and values of all tokens. `attended` counts the calls of each layer.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        num_layers: int,
        device: torch.device,
        backend: str,
        store: PrefixStore | None = None,
    ) -> None:
        self.segments, self._num_layers, self._device = segments, num_layers, device
        self._backend, self._store = backend, store
        self.attended: Counter[int] = Counter()
        *starts, self.num_tokens = accumulate((s.num_tokens for s in segments), initial=0)
        self._starts: list[int] = starts
        positions = [s.num_before + i for s in segments for i in range(s.num_tokens)]
        read = [
            start + row
            for start, segment in zip(starts, segments, strict=True)
            for row in segment.read_rows
        ]
        self.positions, self.read_rows = (
            torch.tensor(rows, dtype=torch.int64, device=device) for rows in (positions, read)
        )
        self._by_segment = SegmentAttention(segments, self.read_rows)

    def attend(
        self, layer: int, states: Sequence[torch.Tensor], options: AttentionOptions
    ) -> torch.Tensor:
        """Attention [M, H, D] of a layer's queries [H, M, D], keys and values [KV, M, D].

        The last layer may attend for the rows that are read alone; the others come out as zero.
        """
        self.attended[layer] += 1
        if self._store:
            self._store.write(layer, states[1:])
        queries, keys, values = (tensor.transpose(0, 1) for tensor in states)
        if self._backend == "triton":
            pool = self._pool(layer, keys)
            asked = options.scale, options.soft_cap, options.window
            return packed_attention((queries, keys, values), pool, self._places, asked, "triton")
        if self._backend == "csrc":
            return cpu_attention.cpu_attention(
                (queries, keys, values), self._starts, self._prefixes(layer), options
            )
        is_last = layer == self._num_layers - 1
        return self._by_segment.attend(layer, states, options, is_last=is_last)

    @cached_property
    def _places(self) -> Segments:
        """Where each segment's tokens and its prefix's blocks are: one table for all layers."""
        prefixes = [segment.prefix for segment in self.segments]
        return Segments(
            lengths=[segment.num_tokens for segment in self.segments],
            prefix_lens=[segment.num_before for segment in self.segments],
            block_ids=[prefix.block_ids.tolist() if prefix else [] for prefix in prefixes],
            device=self._device,
        )

    def _pool(self, layer: int, like: torch.Tensor) -> Pool:
        """Blocks of a layer where the prefixes lie, or one of its shape where there are none."""
        caches = {id(s.prefix.cache): s.prefix.cache for s in self.segments if s.prefix}
        assert len(caches) <= 1, "a micro-batch's prefixes lie in one pool"
        for cache in caches.values():
            return cache.layer(layer)
        nothing = like.new_empty(1, like.shape[1], BLOCK_SIZE, like.shape[2])
        return nothing, nothing

    def _prefixes(self, layer: int) -> cpu_attention.Prefixes:
        return [(s.prefix.blocks(layer), s.num_before) if s.prefix else None for s in self.segments]


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
