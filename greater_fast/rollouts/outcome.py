"""What becomes of a sequence that has ended: a rollout, and its answer measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from greater_fast.engine import Rollout, RolloutRequest
from greater_fast.ranks import Ranks


def rollout_of(
    reasoning: tuple[int, ...],
    answer: tuple[int, ...],
    prompt_nll: Sequence[float],
    logprobs: tuple[float, ...],
    hits: Sequence[int],
    end_id: int | None,
) -> Rollout:
    """The rollout of what the scheduler says of a finished sequence, in its order."""
    return Rollout(
        reasoning_ids=reasoning,
        answer_ids=answer,
        answer_logprobs=logprobs,
        answer_hits=tuple(map(bool, hits)),
        prompt_nll=math.fsum(prompt_nll) / max(len(prompt_nll), 1),
        end_id=end_id,
    )


def measured(request: RolloutRequest, rollout: Rollout, ranks: Ranks) -> Rollout:
    """The rollout with what its request's measure makes of the answer, if it has one.

    Of `ranks` that share a model, and so every rollout, the first measures for all.
    """
    measure = request.measure
    if measure is None:
        return rollout
    return replace(rollout, metric=ranks.by_first(lambda: measure(rollout.answer_ids)))
