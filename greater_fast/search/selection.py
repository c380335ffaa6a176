"""Stage 4, select: fresh reasoning for each shortlisted candidate, and the exact objective.

GREATER, step 3. The incumbent competes with its known value, nothing is scored twice, and a
candidate whose partial objective already exceeds the best complete one is given up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from greater_fast.config import Config
from greater_fast.engine import Engine, Rollout, RolloutRequest
from greater_fast.examples.layout import Layouts
from greater_fast.search.nouns import TIE, Objective, Position, Scored, objective_of


@dataclass(frozen=True, slots=True)
class Selection:
    """The winner of a step, and what each shortlisted token came to (None: given up).

    `shortlist` maps token ids to their first-order scores, `scored` follows its order.
    `gave_up_wrong` says whether a candidate that was given up had a row wrong.
    """

    winner: Scored
    shortlist: Mapping[int, float]
    scored: tuple[Scored | None, ...]
    gave_up_wrong: bool


def select(
    engine: Engine,
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
    prompts = {token_id: position.with_token(token_id) for token_id in shortlist}
    rivals = [scored[ids] for ids in prompts.values() if ids in scored]
    if config.accept == "improve":
        rivals.append(incumbent)
    best = min((r.objective.value(config) for r in rivals), default=math.inf)
    new = [ids for ids in prompts.values() if ids not in scored]
    drafts = [rollout.reasoning_ids for rollout in incumbent.rollouts]
    race = score_prompts(engine, layouts, new, config, best, drafts)
    scored.update({result.prompt_ids: result for result in race.results() if result is not None})
    trials = {token_id: scored.get(prompts[token_id]) for token_id in shortlist}
    contenders = [result for _, result in sorted(trials.items()) if result is not None]
    if config.accept == "improve" or not contenders:
        contenders.insert(0, incumbent)
    lowest = min(c.objective.value(config) for c in contenders)
    winner = next(c for c in contenders if c.objective.value(config) <= lowest + TIE)
    return Selection(winner, shortlist, tuple(trials.values()), race.gave_up_wrong)


def score_prompts(
    engine: Engine,
    layouts: Layouts,
    prompts: Sequence[tuple[int, ...]],
    config: Config,
    best: float = math.inf,
    drafts: Sequence[tuple[int, ...]] = (),
) -> Race:
    """Rollouts and objectives of prompts on all rows, side by side in one batch.

    A prompt is given up when its partial objective is over `best`, or over that of a prompt that is
    done. `drafts` are guesses at each row's reasoning.

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
            draft_ids=drafts[row] if drafts else (),
            group=group,
            sample_key=row,
        )
        for group, prompt_ids in enumerate(prompts)
        for row in range(len(layouts))
    ]
    race = Race(prompts, len(layouts), config, best)
    engine.run(requests, race.finished)
    return race


class Race:
    """Prompts measured side by side; one that can no longer win is given up."""

    def __init__(
        self, prompts: Sequence[tuple[int, ...]], num_rows: int, config: Config, best: float
    ) -> None:
        self._prompts, self._num_rows = prompts, num_rows
        self._config, self._best = config, best
        self._rollouts: list[dict[int, Rollout]] = [{} for _ in prompts]

    def results(self) -> list[Scored | None]:
        """Each prompt with its rollouts, None where it was given up."""
        return [
            Scored(ids, self.objective(group), tuple(rollouts[i] for i in range(self._num_rows)))
            if len(rollouts) == self._num_rows
            else None
            for group, (ids, rollouts) in enumerate(zip(self._prompts, self._rollouts, strict=True))
        ]

    @property
    def gave_up_wrong(self) -> bool:
        """Whether a prompt that was given up had a row wrong."""
        return any(
            rollout.is_wrong
            for rollouts in self._rollouts
            if len(rollouts) < self._num_rows
            for rollout in rollouts.values()
        )

    def objective(self, group: int) -> Objective:
        """A prompt's objective from the rows that are in: a lower bound until all are."""
        rollouts = self._rollouts[group]
        return objective_of([rollouts[row] for row in sorted(rollouts)], self._num_rows)

    def finished(self, number: int, rollout: Rollout) -> list[int]:
        """Take a rollout in; the prompts to give up."""
        group, row = divmod(number, self._num_rows)
        if not math.isfinite(rollout.answer_loss + rollout.prompt_nll):
            raise FloatingPointError(f"the loss of example {row} is not finite: try dtype float32")
        self._rollouts[group][row] = rollout
        values = [self.objective(i).value(self._config) for i in range(len(self._rollouts))]
        is_done = [len(rollouts) == self._num_rows for rollouts in self._rollouts]
        self._best = min(
            [self._best, *(v for v, done in zip(values, is_done, strict=True) if done)]
        )
        return [
            i
            for i, (value, done) in enumerate(zip(values, is_done, strict=True))
            if not done and value > self._best + TIE
        ]
