"""Keys and values of prefixes that were computed for the occasion, in blocks as a pool has them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from greater_fast.model.kv_cache import BLOCK_SIZE, PrefixKV

KeysValues = tuple[torch.Tensor, torch.Tensor]


class _Layers:
    """Keys and values by layer. Prefixes hold it, and it holds none: it goes with the last."""

    def __init__(self) -> None:
        self.known: dict[int, KeysValues] = {}

    def layer(self, index: int) -> KeysValues:
        """Keys and values [blocks, KV, S, D] of a layer; what no prefix covers is anything."""
        return self.known[index]


class PrefixStore:
    """A place for whole prefixes, `prefixes` in their order: what was found is copied to the rest.

    All prefixes of a pass lie in one store, or all in the engine's pool, so that one table tells a
    kernel where they are. A store takes what they take in a pool, each prefix in whole blocks.

    Args:
        lengths: tokens of each prefix.
        found: what there is of it already, its first tokens; or None.
        device: of the keys and values.
    """

    def __init__(
        self, lengths: Sequence[int], found: Sequence[PrefixKV | None], device: torch.device
    ) -> None:
        self._found = [prefix for prefix in found if prefix]
        self._layers = _Layers()
        self.prefixes: list[PrefixKV] = []
        old: list[int] = []
        new: list[int] = []
        self._num_blocks = 0
        for length, prefix in zip(lengths, found, strict=True):
            first, num_found = self._num_blocks, prefix.num_tokens if prefix else 0
            self._num_blocks += -(-length // BLOCK_SIZE)
            ids = torch.arange(first, self._num_blocks, device=device)
            self.prefixes.append(PrefixKV(length, self._layers, ids))
            places = range(first * BLOCK_SIZE, first * BLOCK_SIZE + length)
            old += places[:num_found]
            new += places[num_found:]
        slots = torch.tensor([*old, *new], dtype=torch.int64)
        self._blocks, self._offsets = (
            x.to(device) for x in (slots // BLOCK_SIZE, slots % BLOCK_SIZE)
        )

    def write(self, index: int, new: Sequence[torch.Tensor]) -> None:
        """Take a layer's keys and values [KV, M, D] of all tokens that were not found, in order."""
        found = [prefix.layer(index) for prefix in self._found]
        keys = self._in_blocks([*(keys for keys, _ in found), new[0]])
        values = self._in_blocks([*(values for _, values in found), new[1]])
        self._layers.known[index] = keys, values

    def _in_blocks(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """States [KV, tokens, D], in parts, at their slots of blocks [blocks, KV, S, D]."""
        states = torch.cat(list(parts), 1)
        kv_heads, _, size = states.shape
        blocks = states.new_empty(self._num_blocks, kv_heads, BLOCK_SIZE, size)
        blocks[self._blocks, :, self._offsets] = states.transpose(0, 1)
        return blocks
