"""The K/V tensors behind block ids."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from greater_fast.config import KV_CACHE_BYTES
from greater_fast.model import layers
from greater_fast.model.byte_sizes import format_bytes, free_bytes
from greater_fast.model.checks import UnsupportedModelError
from greater_fast.model.lm import LM

BLOCK_SIZE = 16
_GPU_SHARE = 2 / 3


class KVCache:
    """Keys and values of all layers: `pools`, one for the layers of each shape of keys.

    A pool is [layers of the shape, 2, num_blocks, KV heads, S, D]; a block id is one block in every
    layer. Block 0 takes what padding writes. `poisoned` fills the pools with NaN first (for tests:
    what was never written must never be read).
    """

    def __init__(self, lm: LM, num_blocks: int, *, poisoned: bool = False) -> None:
        shapes = _block_shapes(lm)
        kinds = list(dict.fromkeys(shapes))
        self._places = [
            (kinds.index(shape), shapes[:layer].count(shape)) for layer, shape in enumerate(shapes)
        ]
        try:
            self.pools = tuple(
                torch.empty(
                    (shapes.count(kind), 2, num_blocks, *kind), dtype=lm.dtype, device=lm.device
                )
                for kind in kinds
            )
        except RuntimeError as error:
            raise ValueError(
                f"kv_cache_bytes: a K/V pool of {format_bytes(num_blocks * block_bytes(lm))} is "
                f"more than {lm.device} gives: set less, or engine='generate', which has no pool"
            ) from error
        if poisoned:
            for pool in self.pools:
                pool.fill_(torch.nan)

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [num_blocks, KV heads, S, D] of a layer."""
        kind, place = self._places[index]
        pool = self.pools[kind]
        return pool[place, 0], pool[place, 1]

    def copy(self, pairs: torch.Tensor) -> None:
        """Copy blocks, `pairs` [C, 2] of (from, to); all are read before any is written."""
        for pool in self.pools:
            sources, targets = pairs.to(pool.device, torch.int64).unbind(1)
            pool[:, :, targets] = pool[:, :, sources]


class Pool(Protocol):
    """Where blocks lie."""

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [num_blocks, KV heads, S, D] of a layer."""


class Blocks(NamedTuple):
    """Keys and values [num_blocks, KV heads, S, D], and the ids of those in use."""

    keys: torch.Tensor
    values: torch.Tensor
    ids: list[int]


@dataclass(frozen=True, slots=True)
class PrefixKV:
    """Keys and values of a stored prefix, read from its blocks [B] when a layer's are asked for.

    They are there until the engine runs again.
    """

    num_tokens: int
    cache: Pool
    block_ids: torch.Tensor

    def blocks(self, index: int) -> Blocks:
        """Where a layer's keys and values are."""
        return Blocks(*self.cache.layer(index), self.block_ids.tolist())

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [KV heads, num_tokens, D] of a layer."""
        keys, values = (
            blocks[self.block_ids].transpose(0, 1).flatten(1, 2)[:, : self.num_tokens]
            for blocks in self.cache.layer(index)
        )
        return keys, values


def default_pool_bytes(device: torch.device) -> int:
    """Memory of a pool where neither the user nor a plan names it: on a GPU 2/3 of what is free.

    The last third is for the gradient, for logits and for what a step needs beside the pool.
    """
    if device.type != "cuda":
        return KV_CACHE_BYTES
    torch.cuda.empty_cache()
    return int(_GPU_SHARE * (free_bytes(device) or 0))


def block_bytes(lm: LM) -> int:
    """Memory of one block over all layers."""
    return 2 * sum(map(math.prod, _block_shapes(lm))) * lm.dtype.itemsize


def num_layers(lm: LM) -> int:
    """Decoder layers of a model."""
    return layers.num_layers(lm.model.config.get_text_config())


def _block_shapes(lm: LM) -> list[tuple[int, int, int]]:
    """K/V heads, slots and head size of a block, of each layer.

    Raises:
        UnsupportedModelError: a layer keeps something else than keys and values of one shape.
    """
    shapes = lm.layer_shapes
    if any(shape.num_kv_heads == 0 or shape.state_size for shape in shapes):
        raise UnsupportedModelError("it has recurrent layers, whose state is no keys and values")
    if any(shape.latent_size for shape in shapes):
        raise UnsupportedModelError("it has multi-head latent attention, whose cache is no keys")
    for shape in shapes:
        if shape.key_size != shape.value_size:
            raise UnsupportedModelError(
                f"its keys have {shape.key_size} numbers a head and its values {shape.value_size}, "
                "where a block holds both in one shape"
            )
    return [(shape.num_kv_heads, BLOCK_SIZE, shape.key_size) for shape in shapes]
