"""The ops of this folder in plain torch with float32 accumulation: simple, and always right."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

from greater_fast.kernels.vocabulary.noise import Noise, gumbel_noise

# What exists at a time, in numbers: scores, embeddings in float32 (4 MiB), logits (128 MiB).
SCORE_FLOATS, EMBEDDING_FLOATS, LOGIT_FLOATS = 1 << 14, 1 << 20, 1 << 25


def candidate_scores(
    embeddings: torch.Tensor, gradients: torch.Tensor, ids: torch.Tensor, scale: float = 1.0
) -> torch.Tensor:
    """Scores of replacement tokens, `scale E g`: how the loss changes to first order.

    Args:
        embeddings: E, [V, D], any floating dtype.
        gradients: [G, D] gradient rows.
        ids: [K] int64, the tokens.
        scale: what the model multiplies its embeddings by.

    Returns:
        [G, K] scores, float32 (float64 where an operand is float64); lower is better.
    """
    chunks = ids.split(max(1, EMBEDDING_FLOATS // embeddings.shape[1]))
    return torch.cat([_scores(embeddings[own], gradients, scale) for own in chunks], 1)


def vocabulary_top_k(
    embeddings: torch.Tensor,
    gradients: torch.Tensor,
    allowed: torch.Tensor,
    k: int,
    scale: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k lowest scores of the vocabulary for each gradient, lowest first, ties by lower id.

    Scores are of `candidate_scores`; they exist for a chunk of the vocabulary at a time.

    Args:
        embeddings: E, [V, D], any floating dtype.
        gradients: [G, D] gradient rows.
        allowed: [V] bool, the tokens that count.
        k: how many; where fewer are allowed and have a score below inf, -1 and inf fill up.
        scale: what the model multiplies its embeddings by.

    Returns:
        Ids [G, k] int64 and scores [G, k] float32 (float64 where an operand is float64).
    """
    num_rows, device = len(gradients), gradients.device
    dtype = _result_dtype(embeddings, gradients)
    ids = torch.full((num_rows, k), -1, device=device)
    scores = torch.full((num_rows, k), torch.inf, dtype=dtype, device=device)
    chunk = max(1, min(SCORE_FLOATS // max(1, num_rows), EMBEDDING_FLOATS // embeddings.shape[1]))
    for first in range(0, len(embeddings), chunk):
        new = _scores(embeddings[first : first + chunk], gradients, scale)  # [G, C]
        new.masked_fill_(~allowed[first : first + chunk], torch.inf)
        better = (new < scores[:, -1:]).any(0).nonzero().flatten()
        scores = torch.cat((scores, new[:, better]), 1)
        ids = torch.cat((ids, (first + better).expand(num_rows, -1)), 1)
        order = scores.sort(dim=1, stable=True).indices[:, :k]  # of equals the lower id is first
        scores, ids = scores.gather(1, order), ids.gather(1, order)
    return ids, scores


def _scores(rows: torch.Tensor, gradients: torch.Tensor, scale: float) -> torch.Tensor:
    dtype = _result_dtype(rows, gradients)
    return (gradients.to(dtype) @ rows.to(dtype).T).mul_(scale)


def _result_dtype(one: torch.Tensor, other: torch.Tensor) -> torch.dtype:
    """At least float32."""
    return torch.promote_types(torch.promote_types(one.dtype, other.dtype), torch.float32)


class Head(NamedTuple):
    """An LM head: `logits = cap tanh(scale h W / cap)`, or `scale h W` where the cap is 0.

    `weight` is [V, D]; it is frozen.
    """

    weight: torch.Tensor
    scale: float = 1.0
    soft_cap: float = 0.0


def target_logprob(
    hidden: torch.Tensor,
    targets: torch.Tensor,
    head: Head,
    temperatures: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of given tokens at softmax(logits / temperature), and the likeliest tokens.

    Differentiable in `hidden`. Logits exist for a chunk of rows at a time, in the backward pass
    too; weights of lower precision are copied.

    Args:
        hidden: [R, D] last hidden states, any floating dtype.
        targets: [R] int64 token ids; of one that is not in the vocabulary the result is -inf, or
            NaN where the row's logits are not finite.
        head: makes the logits.
        temperatures: [R] floats > 0.

    Returns:
        Log-probabilities [R] float32 (float64 where an operand is float64), and the argmax of the
        logits [R] int64, of equals the lowest id.
    """
    chunk = max(1, LOGIT_FLOATS // len(head.weight))
    rows = zip(hidden.split(chunk), targets.split(chunk), temperatures.split(chunk), strict=True)
    parts = [checkpoint(_row_logprobs, *row, head, use_reentrant=False) for row in rows]
    logprobs, argmax = zip(*parts, strict=True)
    return torch.cat(logprobs), torch.cat(argmax)


def _row_logprobs(
    hidden: torch.Tensor, targets: torch.Tensor, temperatures: torch.Tensor, head: Head
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = _logits(hidden, head)
    num_tokens = logits.shape[1]
    scaled = logits / temperatures.to(logits.dtype)[:, None]
    known = (targets >= 0) & (targets < num_tokens)
    found = scaled.log_softmax(1).gather(1, targets.clamp(0, num_tokens - 1)[:, None])[:, 0]
    peaks, argmax = logits.detach().max(1)
    unknown = torch.where(peaks.isfinite(), -torch.inf, torch.nan).to(found.dtype)
    return found.where(known, unknown), argmax


def _logits(hidden: torch.Tensor, head: Head) -> torch.Tensor:
    dtype = _result_dtype(hidden, head.weight)
    logits = hidden.to(dtype) @ head.weight.to(dtype).T * head.scale
    return head.soft_cap * torch.tanh(logits / head.soft_cap) if head.soft_cap else logits


def target_logprob_and_sample(
    hidden: torch.Tensor,
    targets: torch.Tensor,
    head: Head,
    temperatures: torch.Tensor,
    noise: Noise | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """What `target_logprob` gives, and tokens [R] int64 sampled with the noise, if there is any.

    They are `argmax(logits + temperature noise)`, of equals the lowest id, and 0 where a row is not
    sampled. Without gradients.
    """
    with torch.no_grad():
        logprobs, argmax = target_logprob(hidden, targets, head, temperatures)
        if noise is None:
            return logprobs, argmax, None
        logits = _logits(hidden, head)
        gumbel = gumbel_noise(noise.seed, noise.examples, noise.places, logits.shape[1])
        sampled = torch.add(logits, gumbel, alpha=noise.temperature).argmax(1)
        return logprobs, argmax, sampled.masked_fill(noise.places < 0, 0)


def copy_blocks(data: torch.Tensor, pairs: torch.Tensor) -> None:
    """Copy blocks of `data` [layers, 2, blocks, KV, S, D] by `pairs` [C, 2] of (from, to)."""
    sources, targets = pairs.long().unbind(1)
    data[:, :, targets] = data[:, :, sources]


class HeadNorm(NamedTuple):
    """RMS norms of each head of the queries, and of the keys: x (offset + w) / root mean square.

    `weights` are both, [D] each; `epsilon` is added to the mean square.
    """

    weights: tuple[torch.Tensor, torch.Tensor]
    epsilon: float
    offset: float = 0.0


class Turns(NamedTuple):
    """What queries and keys of M tokens go through before they meet.

    `cos` and `sin` [M, R] turn the first R numbers of each head, in pairs R / 2 apart or, where it
    is `interleaved`, of neighbours; a `norm` comes before.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    interleaved: bool = False
    norm: HeadNorm | None = None


class Ranges(NamedTuple):
    """Where the queries of B sequences are, and what each sees; all int32.

    `starts` [B + 1] first query row of each sequence, `context_lens` [B] its tokens with those of
    the queries, which are its last; `block_tables` [B, T] the blocks that hold them.
    """

    starts: torch.Tensor
    context_lens: torch.Tensor
    block_tables: torch.Tensor


def store_kv(
    new: tuple[torch.Tensor, torch.Tensor],
    pool: tuple[torch.Tensor, torch.Tensor],
    slots: torch.Tensor,
) -> None:
    """Write new keys and values [M, KV, D] into `pool` [blocks, KV, S, D] at `slots` [M]."""
    blocks, places = slots.long() // pool[0].shape[2], slots.long() % pool[0].shape[2]
    for states, tensor in zip(new, pool, strict=True):
        tensor[blocks, :, places] = states


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
