"""What becomes of a sequence that has ended: a rollout, and its answer measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from greater_fast.engine import Rollout, RolloutRequest
from greater_fast.model.cpu.extension import Stop
from greater_fast.model.text.stop_texts import StopTexts
from greater_fast.ranks import Ranks

# Key, reasoning, answer, prompt NLL, log-probabilities and hits of targets, end id, number of stop.
Outcome = tuple[
    int,
    tuple[int, ...],
    tuple[int, ...],
    tuple[float, ...],
    tuple[float, ...],
    tuple[int, ...],
    int | None,
    int | None,
]


def rollout_of(request: RolloutRequest, outcome: Outcome) -> Rollout:
    """The rollout of what the scheduler says of a finished request."""
    _, reasoning, answer, prompt_nll, logprobs, hits, end_id, stop = outcome
    return Rollout(
        reasoning_ids=reasoning,
        answer_ids=answer,
        answer_logprobs=logprobs,
        answer_hits=tuple(map(bool, hits)),
        prompt_nll=math.fsum(prompt_nll) / max(len(prompt_nll), 1),
        end_id=end_id,
        stop_text=None if stop is None or request.stop is None else request.stop.texts[stop],
    )


def stops_of(requests: Sequence[RolloutRequest]) -> dict[StopTexts | None, Stop | None]:
    """What stops their texts, as the scheduler asks for it; nothing is stopped by None."""
    found = {stop for request in requests for stop in (request.stop, request.answer_stop)}
    return {stop: None if stop is None else Stop(sorted(stop.last_ids), stop.cut) for stop in found}


def measured(request: RolloutRequest, rollout: Rollout, ranks: Ranks) -> Rollout:
    """The rollout with what its request's measure makes of the answer, if it has one.

    Of `ranks` that share a model, and so every rollout, the first measures for all.
    """
    measure = request.measure
    if measure is None:
        return rollout
    return replace(rollout, metric=ranks.by_first(lambda: measure(rollout.answer_ids)))
