"""Whether a row's result depends on what else is in its batch: tried on the model, not assumed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from greater_fast.model.kv_cache import BLOCK_SIZE
from greater_fast.model.lm import LM, LOGIT_FLOATS
from greater_fast.rollouts.paged import forward, longest_of, probe_steps, split_size
from greater_fast.rollouts.plan import Plan

_LENGTH = 5  # of the sequence that is placed


@torch.inference_mode()
def is_batch_invariant(
    lm: LM, backend: str, sizes: Sequence[int], longest: int | None = None
) -> bool:
    """Whether one sequence has the same bits at several places of steps of these sizes M.

    Its states and logits are compared; other sequences fill the M slots before and behind it. Its
    keys are more than one program of a kernel reads, where sequences may be so long (`longest`
    tokens, None: not known), and its block table is as wide as the engine's.
    Plain torch attends to one sequence at a time: there a row's bits depend on how many of its own
    sequence's are beside it.
    """
    if backend == "reference":
        return False
    expected: tuple[torch.Tensor, ...] | None = None
    for num_slots, start in _places(sizes):
        found = _place(lm, backend, longest_of(lm, longest), (num_slots, start))
        if expected is not None and not all(map(torch.equal, found, expected)):
            return False
        expected = found
    return True


def _places(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Where to place it, as (M, first slot): four places of one size, or one of each of several."""
    if len(sizes) == 1:
        (size,) = sizes
        return sorted({(size, max(size - _LENGTH, 0) * third // 3) for third in range(4)})
    return [
        (size, max(size - _LENGTH, 0) * place // (len(sizes) - 1))
        for place, size in enumerate(sizes)
    ]


def _place(
    lm: LM, backend: str, longest: int, place: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """States [N, D] and logits [N, V] of the sequence at that place."""
    num_slots, start = place
    length, split = min(_LENGTH, num_slots), split_size(backend)
    # The first of its rows sees no more than one program reads, the last one does.
    num_before = split - 2 if split and split - 2 + length <= longest else 0
    ahead, behind = _fillers(start, longest), _fillers(num_slots - start - length, longest)
    spans = (*ahead, (num_before, num_before + length), *behind)
    before, after = zip(*spans, strict=True)
    _, plan = probe_steps(lm, backend, (before, after), -(-longest // BLOCK_SIZE))
    _fill(plan, len(ahead), num_before)
    own = slice(start, start + length)
    ids = np.resize(lm.vocabulary.ids(" first of all, count the words"), length)
    plan.tokens[own] = plan.tokens.new_tensor(ids)
    hidden = forward(lm, plan)
    chunk = min(num_slots, max(length, LOGIT_FLOATS // lm.vocab_size))
    first = min(start, num_slots - chunk)
    logits = lm.logits(hidden[first : first + chunk])
    return hidden[own], logits[start - first : start - first + length]


def _fillers(num_tokens: int, longest: int) -> list[tuple[int, int]]:
    """First and last place of sequences of so many tokens in all, none longer than any may be."""
    starts = range(0, num_tokens, longest)
    return [(0, min(longest, num_tokens - start)) for start in starts]


def _fill(plan: Plan, row: int, num_tokens: int) -> None:
    """Keys and values of a sequence's first tokens: any numbers, always the same."""
    blocks = plan.block_tables[row, : -(-num_tokens // BLOCK_SIZE)].long()
    source = torch.Generator(blocks.device).manual_seed(0)
    for pool in plan.cache.pools:
        shape = (*pool.shape[:2], len(blocks), *pool.shape[3:])
        pool[:, :, blocks] = torch.randn(
            shape, generator=source, dtype=pool.dtype, device=pool.device
        )
