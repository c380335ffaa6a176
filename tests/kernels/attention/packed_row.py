"""Segments in a packed row over a poisoned pool, and what attention over them must give."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from greater_fast.kernels.attention.packed_reference import Pool, Segments, States

BLOCK = 16


@dataclass(frozen=True)
class Row:
    """What the op is given, and the gradient of its outputs [M, H, D]."""

    states: States
    pool: Pool
    segments: Segments
    gradient: torch.Tensor

    def of(self, chosen: list[int]) -> "Row":
        """Some of the segments, in that order."""
        lengths = list(self.segments.lengths)
        queries, keys, values, gradient = (
            torch.cat([tensor.split(lengths)[b] for b in chosen])
            for tensor in (*self.states, self.gradient)
        )
        lists = (self.segments.lengths, self.segments.prefix_lens, self.segments.block_ids)
        picked: list[Any] = [[numbers[b] for b in chosen] for numbers in lists]
        segments = Segments(*picked, self.segments.device)
        return Row((queries, keys, values), self.pool, segments, gradient)

    def to(self, dtype: torch.dtype) -> "Row":
        """Of another type."""
        queries, keys, values = (state.to(dtype) for state in self.states)
        pool = self.pool[0].to(dtype), self.pool[1].to(dtype)
        return replace(
            self, states=(queries, keys, values), pool=pool, gradient=self.gradient.to(dtype)
        )


def make_row(
    segments: list[tuple[int, int]],
    *,
    heads: int = 4,
    kv_heads: int = 2,
    head_size: int = 16,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Row:
    """Segments of given (prefix, length); slots of the pool that no prefix fills are NaN."""
    device = torch.get_default_device()
    with torch.device("cpu"):
        generator = torch.Generator().manual_seed(seed)
        counts = [-(-prefix // BLOCK) for prefix, _ in segments]
        order = (1 + torch.randperm(sum(counts), generator=generator)).tolist()
        ids = [order[sum(counts[:b]) : sum(counts[: b + 1])] for b in range(len(counts))]
        pool = torch.full((2, sum(counts) + 2, kv_heads, BLOCK, head_size), torch.nan, dtype=dtype)
        for own, (prefix, _) in zip(ids, segments, strict=True):
            for place in range(prefix):
                new = torch.randn(2, kv_heads, head_size, generator=generator)
                pool[:, own[place // BLOCK], :, place % BLOCK] = new.to(dtype)
        lengths = [length for _, length in segments]
        rows = [
            torch.randn(sum(lengths), number, head_size, generator=generator).to(device, dtype)
            for number in (heads, kv_heads, kv_heads, heads)
        ]
    stored = pool.to(device)
    placed = Segments(lengths, [prefix for prefix, _ in segments], ids, device)
    return Row((rows[0], rows[1], rows[2]), (stored[0], stored[1]), placed, rows[3])


def exact(
    row: Row, scale: float, soft_cap: float = 0.0, window: int = 0
) -> tuple[torch.Tensor, ...]:
    """Outputs and the gradients of queries, keys and values in float64, one query at a time."""
    return by_torch(row.to(torch.float64), scale, soft_cap, window)


def by_torch(
    row: Row, scale: float, soft_cap: float = 0.0, window: int = 0
) -> tuple[torch.Tensor, ...]:
    """The same in the type of the row: every score and every weight is rounded to it."""
    leaves = [state.detach().clone().requires_grad_() for state in row.states]
    queries, keys, values = leaves
    group = queries.shape[1] // keys.shape[1]
    outputs, first = [], 0
    places = (row.segments.lengths, row.segments.prefix_lens, row.segments.block_ids)
    for length, prefix, ids in zip(*places, strict=True):
        before = [
            [part[ids[place // BLOCK], :, place % BLOCK] for place in range(prefix)]
            for part in row.pool
        ]
        for query in range(length):
            stop = prefix + query + 1
            low = max(0, stop - window) if window else 0
            seen_keys, seen_values = (
                torch.stack([*stored, *new[first : first + query + 1]][low:stop])
                .repeat_interleave(group, 1)
                .transpose(0, 1)
                for stored, new in zip(before, (keys, values), strict=True)
            )  # [H, L, D]
            scores = (seen_keys @ queries[first + query][:, :, None])[..., 0] * scale
            if soft_cap:
                scores = soft_cap * torch.tanh(scores / soft_cap)
            outputs.append((scores.softmax(-1)[:, None] @ seen_values)[:, 0])
        first += length
    output = torch.stack(outputs)
    gradients = torch.autograd.grad(output, leaves, row.gradient)
    return output.detach(), *gradients
