"""Whether a row's result depends on what else is in its batch: tried on the model, not assumed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from greater_fast.model.lm import LM, LOGIT_FLOATS
from greater_fast.rollouts.paged import forward, probe

_LENGTH = 5  # of the sequence that is placed


@torch.inference_mode()
def is_batch_invariant(lm: LM, backend: str, sizes: Sequence[int]) -> bool:
    """Whether one sequence has the same bits at several places of steps of these sizes M.

    Its states and logits are compared; other sequences fill the M slots before and behind it.
    Plain torch attends to one sequence at a time: there a row's bits depend on how many of its own
    sequence's are beside it.
    """
    if backend == "reference":
        return False
    expected: tuple[torch.Tensor, ...] | None = None
    for num_slots, start in _places(sizes):
        found = _place(lm, backend, num_slots, start)
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


def _place(lm: LM, backend: str, num_slots: int, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """States [N, D] and logits [N, V] of the sequence at that place."""
    length = min(_LENGTH, num_slots)
    lengths = (start, length, num_slots - start - length)
    plan = probe(lm, backend, tuple(n for n in lengths if n > 0))
    own = slice(start, start + length)
    ids = np.resize(lm.vocabulary.ids(" first of all, count the words"), length)
    plan.tokens[own] = plan.tokens.new_tensor(ids)
    hidden = forward(lm, plan)
    chunk = min(num_slots, max(length, LOGIT_FLOATS // lm.vocab_size))
    first = min(start, num_slots - chunk)
    logits = lm.logits(hidden[first : first + chunk])
    return hidden[own], logits[start - first : start - first + length]
