"""Sequences over a poisoned K/V pool, and what attention over them must give."""

from typing import NamedTuple

import torch

from greater_fast.kernels.reference import Ranges

BLOCK = 16
Pair = tuple[torch.Tensor, torch.Tensor]


class Batch(NamedTuple):
    """One step: queries [M, H, D], and the pool with the keys and values of every token in it."""

    queries: torch.Tensor
    pool: Pair
    ranges: Ranges

    def of(self, chosen: list[int], num_padding: int = 0) -> "Batch":
        """Some of the sequences, in that order, before rows of padding."""
        starts, lens, tables = self.ranges
        rows = [self.queries[starts[b] : starts[b + 1]] for b in chosen]
        padding = torch.full((num_padding, *self.queries.shape[1:]), torch.nan)
        sizes = torch.tensor([0, *map(len, rows)], dtype=torch.int32)
        return Batch(
            torch.cat([*rows, padding.to(self.queries.dtype)]),
            self.pool,
            Ranges(sizes.cumsum(0, dtype=torch.int32), lens[chosen], tables[chosen]),
        )

    def rows(self, outputs: torch.Tensor, chosen: list[int]) -> torch.Tensor:
        """The rows of some sequences."""
        starts = self.ranges.starts
        return torch.cat([outputs[starts[b] : starts[b + 1]] for b in chosen])


def make_batch(
    sequences: list[tuple[int, int]],
    *,
    heads: int = 4,
    kv_heads: int = 2,
    head_size: int = 32,
    dtype: torch.dtype = torch.float32,
    spare_width: int = 1,
) -> Batch:
    """Sequences of given (queries, context); what no sequence has written is NaN."""
    device = torch.get_default_device()
    with torch.device("cpu"):
        generator = torch.Generator().manual_seed(0)
        counts = [-(-context // BLOCK) for _, context in sequences]
        order = 1 + torch.randperm(sum(counts), generator=generator)
        tables = torch.full((len(sequences), max(counts) + spare_width), sum(counts) + 1)
        pool = torch.full((2, sum(counts) + 2, kv_heads, BLOCK, head_size), torch.nan, dtype=dtype)
        for b, (_, context) in enumerate(sequences):
            own = order[sum(counts[:b]) : sum(counts[: b + 1])]
            tables[b, : len(own)] = own
            places = torch.arange(context)
            states = torch.randn(2, context, kv_heads, head_size, generator=generator)
            pool[:, own[places // BLOCK], :, places % BLOCK] = states.to(dtype).transpose(0, 1)
        starts = torch.tensor([0] + [count for count, _ in sequences]).cumsum(0)
        queries = torch.randn(int(starts[-1]), heads, head_size, generator=generator).to(dtype)
        contexts = torch.tensor([context for _, context in sequences])
    keys, values = pool.to(device)
    ranges = (tensor.to(device, torch.int32) for tensor in (starts, contexts, tables))
    return Batch(queries.to(device), (keys, values), Ranges(*ranges))
