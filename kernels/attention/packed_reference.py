"""Attention over a packed row in plain torch: where its segments are, and the op itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import torch

from greater_fast.kernels.checks import expect_together

States = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Pool = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Segments:
    """B examples' tokens side by side in a row of M, each behind a prefix that lies in blocks.

    One serves all layers of a pass, and what a device needs of it is uploaded once.

    Attributes:
        lengths: [B] tokens of each example in the row.
        prefix_lens: [B] tokens before them, 0 where there are none.
        block_ids: [B] lists of the pool's blocks that hold each prefix, from its first token on.
        device: of the row.
    """

    lengths: Sequence[int]
    prefix_lens: Sequence[int]
    block_ids: Sequence[Sequence[int]]
    device: torch.device
    _tiles: dict[tuple[str, int], torch.Tensor] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def num_tokens(self) -> int:
        """M."""
        return sum(self.lengths)

    @cached_property
    def starts(self) -> torch.Tensor:
        """Where each segment begins, and the end of the row: [B + 1] int32."""
        return self._ints([0, *accumulate(self.lengths)])

    @cached_property
    def prefix_sizes(self) -> torch.Tensor:
        """`prefix_lens` on the device: [B] int32."""
        return self._ints(self.prefix_lens)

    @cached_property
    def block_tables(self) -> torch.Tensor:
        """`block_ids` on the device, filled up with 0: [B, T] int32, T at least 1."""
        width = max(1, *map(len, self.block_ids), 1)
        return self._ints([[*ids, *[0] * (width - len(ids))] for ids in self.block_ids])

    @cached_property
    def block_range(self) -> tuple[int, int]:
        """The lowest and the highest of all ids; (0, -1) where there are none."""
        all_ids = [block for ids in self.block_ids for block in ids]
        return (min(all_ids), max(all_ids)) if all_ids else (0, -1)

    def query_tiles(self, size: int) -> torch.Tensor:
        """Each segment cut into tiles of that many tokens: [N, 2] int32 of (segment, its token).

        Those that see the most keys come first: what is begun last should be short.
        """
        return self._cut("queries", size, lambda b, first: -(self.prefix_lens[b] + first))

    def key_tiles(self, size: int) -> torch.Tensor:
        """As `query_tiles`, those first that the most queries see."""
        return self._cut("keys", size, lambda b, first: first - self.lengths[b])

    def _cut(self, name: str, size: int, order: Callable[[int, int], int]) -> torch.Tensor:
        if (name, size) not in self._tiles:
            tiles = [
                (b, i) for b, length in enumerate(self.lengths) for i in range(0, length, size)
            ]
            tiles.sort(key=lambda tile: order(*tile))
            self._tiles[name, size] = self._ints(tiles)
        return self._tiles[name, size]

    def _ints(self, numbers: Sequence[int] | Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device=self.device)


def packed_attention(
    states: States,
    pool: Pool,
    segments: Segments,
    scale: float,
    soft_cap: float = 0.0,
    window: int = 0,
) -> torch.Tensor:
    """Causal attention within each segment and over its prefix, `softmax(scale q k) v`.

    Differentiable in the states; the prefixes are constants.

    Args:
        states: queries [M, H, D], keys and values [M, KV, D], any floating dtype.
        pool: keys and values [blocks, KV, S, D] of the prefixes.
        segments: which rows and blocks belong to each example.
        scale: of the scores.
        soft_cap: c of `c tanh(score / c)`; 0 for none.
        window: a query sees this many tokens at most, itself included; 0 for all.

    Returns:
        [M, H, D] in the dtype of the queries; sums are float32 (float64 where an operand is).
    """
    dtype = torch.promote_types(torch.promote_types(states[0].dtype, pool[0].dtype), torch.float32)
    group = states[0].shape[1] // states[1].shape[1]
    outputs = [states[0][:0]]
    parts = zip(*(state.split(list(segments.lengths)) for state in states), strict=True)
    places = zip(parts, segments.block_ids, segments.prefix_lens, strict=True)
    for (queries, *own), ids, num_before in places:
        before = [blocks[list(ids)].transpose(1, 2).flatten(0, 1)[:num_before] for blocks in pool]
        keys, values = (
            torch.cat([prefix.detach(), new]).to(dtype).repeat_interleave(group, dim=1)
            for prefix, new in zip(before, own, strict=True)
        )  # [L, H, D]
        scores = torch.einsum("qhd,khd->hqk", queries.to(dtype), keys) * scale
        if soft_cap:
            scores = soft_cap * torch.tanh(scores / soft_cap)
        key = torch.arange(len(keys), device=keys.device)
        place = key[num_before:, None]
        seen = (key <= place) & (key > place - (window or len(keys)))
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, values).to(queries.dtype))
    return torch.cat(outputs)


def check_packed(states: States, pool: Pool, segments: Segments) -> None:
    """Raise ValueError unless states, pool and segments are of sizes that fit together."""
    queries, keys = states[0], states[1]
    if queries.ndim != 3 or keys.ndim != 3 or pool[0].ndim != 4:
        raise ValueError(
            f"states: got {[list(state.shape) for state in states]} over a pool "
            f"{list(pool[0].shape)}, expected [M, heads, D] and [blocks, KV, S, D]"
        )
    num_tokens, num_heads, head_size = queries.shape
    num_blocks, num_kv_heads, block_size, _ = pool[0].shape
    of_row = (num_tokens, num_kv_heads, head_size)
    of_pool = (num_blocks, num_kv_heads, block_size, head_size)
    for name, tensors, shape in (("states", states[1:], of_row), ("pool", pool, of_pool)):
        if any(tuple(tensor.shape) != shape for tensor in tensors):
            found = " and ".join(str(list(tensor.shape)) for tensor in tensors)
            raise ValueError(f"{name}: got keys and values {found}, expected {list(shape)}")
    if num_heads % max(1, num_kv_heads):
        raise ValueError(f"queries: got {num_heads} heads, expected a multiple of {num_kv_heads}")
    dtypes = sorted({str(tensor.dtype) for tensor in (*states, *pool)})
    if len(dtypes) > 1:
        raise ValueError(f"states and pool: got {' and '.join(dtypes)}, expected one type")
    expect_together(*states, *pool, segments.starts)
    _check_segments(segments, num_tokens, num_blocks, block_size)


def _check_segments(segments: Segments, num_tokens: int, num_blocks: int, block_size: int) -> None:
    """Segments of a row of that many tokens, whose prefixes lie in blocks that there are."""
    if segments.num_tokens != num_tokens:
        raise ValueError(f"segments: got {segments.num_tokens} tokens, expected {num_tokens}")
    low, high = segments.block_range
    if low < 0 or high >= num_blocks:
        raise ValueError(f"block_ids: got {low} to {high}, expected 0 to {num_blocks - 1}")
    for ids, size in zip(segments.block_ids, segments.prefix_lens, strict=True):
        if size > len(ids) * block_size:
            raise ValueError(
                f"block_ids: got {len(ids)} blocks of {block_size} for a prefix of {size} tokens"
            )
