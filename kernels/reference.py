"""The ops of this folder in plain torch with float32 accumulation: simple, and always right."""

from __future__ import annotations

from typing import NamedTuple

import torch


def candidate_scores(embeddings: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """Scores of replacement tokens, `E g`: how the loss changes to first order; lower is better.

    Args:
        embeddings: [K, D] rows of the candidates, any floating dtype.
        gradients: [G, D] gradient rows.

    Returns:
        [G, K] scores, float32 (float64 where an operand is float64).
    """
    dtype = torch.promote_types(
        torch.promote_types(embeddings.dtype, gradients.dtype), torch.float32
    )
    return gradients.to(dtype) @ embeddings.to(dtype).T


class Ranges(NamedTuple):
    """Where the queries of B sequences are, and what each sees; all int32.

    `starts` [B + 1] first query row of each sequence, `context_lens` [B] its tokens with those of
    the queries, which are its last; `block_tables` [B, T] the blocks that hold them.
    """

    starts: torch.Tensor
    context_lens: torch.Tensor
    block_tables: torch.Tensor


def paged_attention(
    queries: torch.Tensor,
    pool: tuple[torch.Tensor, torch.Tensor],
    ranges: Ranges,
    scale: float,
    soft_cap: float = 0.0,
    window: int = 0,
) -> torch.Tensor:
    """Causal attention over block tables, `softmax(scale q k) v`, one sequence at a time.

    Args:
        queries: [M, H, D], any floating dtype; rows outside every sequence are padding.
        pool: keys and values [blocks, KV, S, D], those of the queries' own tokens included.
        ranges: which rows and blocks belong to each sequence.
        scale: of the scores.
        soft_cap: c of `c tanh(score / c)`; 0 for none.
        window: a query sees this many tokens at most, itself included; 0 for all.

    Returns:
        [M, H, D] float32 (float64 where an operand is float64), 0 in rows of padding.
    """
    dtype = torch.promote_types(torch.promote_types(queries.dtype, pool[0].dtype), torch.float32)
    output = torch.zeros(queries.shape, dtype=dtype, device=queries.device)
    group = queries.shape[1] // pool[0].shape[1]
    for b, context in enumerate(ranges.context_lens.tolist()):
        first, stop = ranges.starts[b : b + 2].tolist()
        size = pool[0].shape[2]
        blocks = ranges.block_tables[b, : -(-context // size)].long()
        keys, values = (
            tensor[blocks]
            .to(dtype)
            .transpose(1, 2)
            .flatten(0, 1)[:context]  # [context, KV, D]
            .repeat_interleave(group, dim=1)
            for tensor in pool
        )
        scores = torch.einsum("qhd,khd->hqk", queries[first:stop].to(dtype), keys) * scale
        if soft_cap:
            scores = soft_cap * torch.tanh(scores / soft_cap)
        own = torch.arange(context - (stop - first), context, device=queries.device)[:, None]
        key = torch.arange(context, device=queries.device)
        seen = (key <= own) & (key > own - (window or context))
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        output[first:stop] = torch.einsum("hqk,khd->qhd", weights, values)
    return output
