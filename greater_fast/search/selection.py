"""Stage 4, select: fresh reasoning for each shortlisted candidate, and the exact objective.

GREATER, step 3. The incumbent competes with its known value, nothing is scored twice, and a
candidate that is worse than what was known when the step began is given up as soon as that shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from greater_fast.config import Config
from greater_fast.engine import Engine, Rollout, RolloutRequest
from greater_fast.examples.layout import Layouts
from greater_fast.search.nouns import TIE, Objective, Position, Scored, objective_of
from greater_fast.search.state import LoopState


@dataclass(frozen=True, slots=True)
class Selection:
    """The winner of a step, and what each shortlisted token came to (None: given up).

    `shortlist` maps token ids to their first-order scores, `scored` follows its order.
    """

    winner: Scored
    shortlist: Mapping[int, float]
    scored: tuple[Scored | None, ...]


def select(
    engine: Engine,
    layouts: Layouts,
    shortlist: Mapping[int, float],
    position: Position,
    state: LoopState,
    config: Config,
) -> Selection:
    """Score the shortlist, and choose: lowest objective, ties to the incumbent, then the lower id.

    What is found goes into the state's `scored` and `given_up`. A candidate is given up if it is
    worse than the best that was known when the step began: of the incumbent, where it competes, and
    of shortlisted prompts that were scored in earlier steps.
    """
    prompts = {token_id: position.with_token(token_id) for token_id in shortlist}
    known = [state.scored[ids] for ids in prompts.values() if ids in state.scored]
    if config.accept == "improve":
        known.append(state.incumbent)
    bound = min((k.objective.value(config) for k in known), default=math.inf)
    new = [
        ids
        for ids in prompts.values()
        if ids not in state.scored and state.given_up.get(ids, -math.inf) < bound
    ]
    drafts = [rollout.reasoning_ids for rollout in state.incumbent.rollouts]
    results = score_prompts(engine, layouts, new, config, bound, drafts)
    for ids, result in zip(new, results, strict=True):
        if result is None:
            state.given_up[ids] = bound
        else:
            state.scored[ids] = result
            state.given_up.pop(ids, None)
    trials = {token_id: state.scored.get(prompts[token_id]) for token_id in shortlist}
    contenders = [result for _, result in sorted(trials.items()) if result is not None]
    if config.accept == "improve" or not contenders:
        contenders.insert(0, state.incumbent)
    lowest = min(c.objective.value(config) for c in contenders)
    winner = next(c for c in contenders if c.objective.value(config) <= lowest + TIE)
    return Selection(winner, shortlist, tuple(trials.values()))


def score_prompts(
    engine: Engine,
    layouts: Layouts,
    prompts: Sequence[tuple[int, ...]],
    config: Config,
    bound: float = math.inf,
    drafts: Sequence[tuple[int, ...]] = (),
) -> list[Scored | None]:
    """Prompts with their rollouts on all rows, side by side in one batch; None for the given up.

    A prompt is given up when its objective is over `bound` by more than a tie. `drafts` are guesses
    at each row's reasoning.

    Raises:
        FloatingPointError: a loss is not finite; names the example.
    """
    requests = [
        RolloutRequest(
            prompt_ids=layouts.context_ids(row, prompt_ids),
            max_new_tokens=config.max_new_tokens,
            end_ids=engine.lm.end_ids | layouts.end_ids,
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
    trials = [_Trial(ids, len(layouts), config, bound) for ids in prompts]

    def finished(number: int, rollout: Rollout) -> list[int]:
        group, row = divmod(number, len(layouts))
        trials[group].add(row, rollout)
        return [group] if trials[group].is_given_up else []

    engine.run(requests, finished)
    return [None if trial.is_given_up else trial.result() for trial in trials]


class _Trial:
    """One prompt while its rows end, in any order; given up once it is over a bound.

    The objective of some rows is never over that of all, as terms are not negative and sums are
    rounded monotonically: at one row or another a prompt is over the bound exactly if it is with
    all rows. As the bound is fixed before the first row ends, what is given up is a function of the
    rows' outcomes, whatever their order and however many still end after it showed.
    """

    def __init__(
        self, prompt_ids: tuple[int, ...], num_rows: int, config: Config, bound: float
    ) -> None:
        self._prompt_ids, self._num_rows = prompt_ids, num_rows
        self._config, self._bound = config, bound
        self._rollouts: dict[int, Rollout] = {}

    def add(self, row: int, rollout: Rollout) -> None:
        """Take a row in."""
        if not math.isfinite(rollout.answer_loss + rollout.prompt_nll):
            raise FloatingPointError(f"the loss of example {row} is not finite: try dtype float32")
        self._rollouts[row] = rollout

    @property
    def is_given_up(self) -> bool:
        """Whether the rows so far are enough to be over the bound."""
        return self._objective().value(self._config) > self._bound + TIE

    def result(self) -> Scored:
        """The prompt with all its rows."""
        rollouts = tuple(self._rollouts[row] for row in range(self._num_rows))
        return Scored(self._prompt_ids, self._objective(), rollouts)

    def _objective(self) -> Objective:
        return objective_of(list(self._rollouts.values()), self._num_rows)
