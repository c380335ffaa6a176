"""Stage 4, select: fresh reasoning for each shortlisted candidate, and the exact objective.

GREATER, step 3. The incumbent competes with its known value, nothing is scored twice, and a
candidate whose partial objective already exceeds the best complete one is given up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from greater_fast.config import Config
from greater_fast.layout import Layouts
from greater_fast.nouns import TIE, Position, Rollout, Scored, objective_of
from greater_fast.rollout import RolloutEngine, RolloutRequest


@dataclass(frozen=True, slots=True)
class Selection:
    """The winner of a step, and what each shortlisted token came to (None: given up).

    `shortlist` maps token ids to their first-order scores, `scored` follows its order.
    """

    winner: Scored
    shortlist: Mapping[int, float]
    scored: tuple[Scored | None, ...]


def select(
    engine: RolloutEngine,
    layouts: Layouts,
    shortlist: Mapping[int, float],
    position: Position,
    scored: dict[tuple[int, ...], Scored],
    config: Config,
) -> Selection:
    """Score the shortlist, and choose: lowest objective, ties to the incumbent, then the lower id.

    `scored` holds every prompt scored so far, the incumbent among them; complete scores are added.
    """
    incumbent = scored[position.prompt_ids]
    best = incumbent.objective.value(config) if config.accept == "improve" else math.inf
    trials: dict[int, Scored | None] = {}
    for token_id in shortlist:
        prompt_ids = position.with_token(token_id)
        result = scored.get(prompt_ids)
        if result is None:
            result = score_prompt(engine, layouts, prompt_ids, config, bound=best + TIE)
        if result is not None:
            scored[prompt_ids] = result
            best = min(best, result.objective.value(config))
        trials[token_id] = result
    complete = [(token_id, result) for token_id, result in sorted(trials.items()) if result]
    contenders = [result for _, result in complete]
    if config.accept == "improve" or not contenders:
        contenders.insert(0, incumbent)
    lowest = min(c.objective.value(config) for c in contenders)
    winner = next(c for c in contenders if c.objective.value(config) <= lowest + TIE)
    return Selection(winner, shortlist, tuple(trials.values()))


def score_prompt(
    engine: RolloutEngine,
    layouts: Layouts,
    prompt_ids: tuple[int, ...],
    config: Config,
    bound: float = math.inf,
) -> Scored | None:
    """A prompt's rollouts and objective on all rows; None where it is given up over `bound`.

    Raises:
        FloatingPointError: a loss is not finite; names the example.
    """
    requests = [
        RolloutRequest(
            prompt_ids=layouts.context_ids(row, prompt_ids),
            max_new_tokens=config.max_new_tokens,
            end_ids=engine.lm.end_ids,
            prompt_span=layouts.prompt_span(row, prompt_ids),
            target_ids=layouts.target_ids(row),
            num_scored=len(layouts.rows[row].answer_ids),
        )
        for row in range(len(layouts))
    ]
    rollouts: list[Rollout] = []
    for start in range(0, len(requests), engine.batch_size):
        rollouts += engine.run(requests[start : start + engine.batch_size])
        for row, rollout in enumerate(rollouts[start:], start):
            if not math.isfinite(rollout.answer_loss + rollout.prompt_nll):
                raise FloatingPointError(
                    f"the loss of example {row} is not finite: try dtype float32"
                )
        partial = objective_of(rollouts, len(layouts)).value(config)
        if len(rollouts) < len(requests) and partial > bound:
            return None
    return Scored(prompt_ids, objective_of(rollouts, len(layouts)), tuple(rollouts))
