"""Stage 4, select: fresh reasoning for each shortlisted candidate, and the exact objective.

GREATER, step 3. The incumbent competes with its known value, nothing is scored twice, and a
candidate that is worse than what was known when the step began is given up as soon as that shows;
with `race` one that seems to be worse is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from greater_fast.config import Config
from greater_fast.engine import Rollout, RolloutRequest
from greater_fast.examples.layout import Layouts
from greater_fast.search.answer import behind_reasoning
from greater_fast.search.ensemble import Models, members, places_of
from greater_fast.search.nouns import TIE, Objective, Position, Scored, objective_of
from greater_fast.search.racing import Course, Race, draw_course
from greater_fast.search.state import LoopState


@dataclass(frozen=True, slots=True)
class Selection:
    """The winner of a step, and what each shortlisted token came to (None: given up, or dropped).

    `shortlist` maps token ids to their scores (None: drawn), `scored` follows its order; `dropped`
    has the rows that a race took until it dropped a token, in this step or in an earlier one.
    """

    winner: Scored
    shortlist: Mapping[int, float | None]
    scored: tuple[Scored | None, ...]
    dropped: Mapping[int, int] = field(default_factory=dict)


def select(
    models: Models,
    layouts: Layouts,
    shortlist: Mapping[int, float | None],
    position: Position,
    state: LoopState,
    config: Config,
) -> Selection:
    """Score the shortlist, and choose: lowest objective, ties to the incumbent, then the lower id.

    What is found goes into the state's `scored`, `given_up` and `dropped`. A candidate is given up
    if it is worse than the best that was known when the step began: of the incumbent, where it
    competes, and of shortlisted prompts that were scored in earlier steps. In a race it is dropped
    where that comes first, row by row in the drawn order; it is not raced again.
    """
    prompts = {token_id: position.with_token(token_id) for token_id in shortlist}
    known = [state.scored[ids] for ids in prompts.values() if ids in state.scored]
    if config.accept == "improve":
        known.append(state.incumbent)
    bound = min((k.objective.value(config) for k in known), default=math.inf)
    course = draw_course(state.incumbent, position.step, config)
    places = places_of(models, len(layouts))
    trials = [
        _Trial(ids, places, config, bound, course)
        for ids in prompts.values()
        if ids not in state.scored
        and state.given_up.get(ids, -math.inf) < bound
        and (course is None or ids not in state.dropped)
    ]
    drafts = [rollout.reasoning_ids for rollout in state.incumbent.rollouts]
    _run(models, layouts, trials, config, drafts, course)
    for trial in trials:
        trial.tell(state)
    found = {token_id: state.scored.get(prompts[token_id]) for token_id in shortlist}
    contenders = [result for _, result in sorted(found.items()) if result is not None]
    if config.accept == "improve" or not contenders:
        contenders.insert(0, state.incumbent)
    lowest = min(c.objective.value(config) for c in contenders)
    winner = next(c for c in contenders if c.objective.value(config) <= lowest + TIE)
    dropped = {i: state.dropped[ids] for i, ids in prompts.items() if ids in state.dropped}
    return Selection(winner, shortlist, tuple(found.values()), dropped)


def score_prompts(
    models: Models,
    layouts: Layouts,
    prompts: Sequence[tuple[int, ...]],
    config: Config,
    bound: float = math.inf,
    drafts: Sequence[tuple[int, ...]] = (),
) -> list[Scored | None]:
    """Prompts with their rollouts on all rows, side by side in one batch; None for the given up.

    Where the rows have a metric, and the objective is the error, answers are generated and measured
    in place of scoring the gold ones. A prompt is given up when its objective is over `bound` by
    more than a tie. `drafts` are guesses at each row's reasoning. Of several models there are the
    rows of each, model after model.

    Raises:
        FloatingPointError: a loss is not finite; names the example.
    """
    places = places_of(models, len(layouts))
    trials = [_Trial(ids, places, config, bound) for ids in prompts]
    _run(models, layouts, trials, config, drafts)
    return [None if trial.is_given_up else trial.result() for trial in trials]


def _run(
    models: Models,
    layouts: Layouts,
    trials: Sequence[_Trial],
    config: Config,
    drafts: Sequence[tuple[int, ...]],
    course: Course | None = None,
) -> None:
    """Run what is tried on all rows: prompt by prompt, or on a course row by row across prompts."""
    ends = [own.lm.end_ids | layouts.end_ids for own in members(models)]
    places, groups = places_of(models, len(layouts)), range(len(trials))
    if course is None:
        numbers = [(group, place) for group in groups for place in range(len(places))]
    else:
        numbers = [(group, place) for place in course.order for group in groups]
    requests = [
        RolloutRequest(
            prompt_ids=layouts.context_ids(row, trials[group].prompt_ids),
            max_new_tokens=config.max_new_tokens,
            end_ids=ends[model],
            stop=layouts.stop,
            prompt_span=layouts.prompt_span(row, trials[group].prompt_ids),
            **behind_reasoning(layouts, row, config),
            draft_ids=drafts[place] if drafts else (),
            group=group,
            sample_key=row,
            model=model,
        )
        for group, place in numbers
        for model, row in [places[place]]
    ]

    def finished(number: int, rollout: Rollout) -> list[int]:
        group, place = numbers[number]
        trials[group].add(place, rollout)
        return [group] if trials[group].is_over else []

    models.run(requests, finished)


class _Trial:
    """One prompt while its rows end, in any order; given up once it is over a bound.

    `places` are the model and the row of each of its rollouts.

    The objective of some rows is never over that of all, as terms are not negative and sums are
    rounded monotonically: at one row or another a prompt is over the bound exactly if it is with
    all rows. As the bound is fixed before the first row ends, what is given up is a function of the
    rows' outcomes, whatever their order and however many still end after it showed.

    On a `course` rows are taken in its order, and the prompt may be dropped before it is given up:
    which of the two comes first is a function of the outcomes too, and at the same row the bound
    has the say, which is proven. With all rows in, it is scored.
    """

    def __init__(
        self,
        prompt_ids: tuple[int, ...],
        places: Sequence[tuple[int, int]],
        config: Config,
        bound: float,
        course: Course | None = None,
    ) -> None:
        self.prompt_ids, self.is_given_up = prompt_ids, False
        self._places, self._config, self._bound = places, config, bound
        self._race = Race(course) if course else None
        self._rollouts: dict[int, Rollout] = {}

    def add(self, place: int, rollout: Rollout) -> None:
        """Take a row in, or in a race those whose turn has come with it; none once it is over."""
        if self._race is None:
            if not self.is_over:
                self._take(place, rollout)
            return
        for earlier, own in self._race.in_turn(place, rollout):
            if self.is_over:
                return
            self._take(earlier, own)
            self._race.bet(earlier, own.error)

    @property
    def is_dropped(self) -> bool:
        """Whether the race is lost before the last row: behind it the objective says more."""
        is_whole = len(self._rollouts) == len(self._places)
        return self._race is not None and self._race.is_lost and not is_whole

    @property
    def is_over(self) -> bool:
        """Whether no further row is needed."""
        return self.is_given_up or self.is_dropped

    def result(self) -> Scored:
        """The prompt with all its rows."""
        rollouts = tuple(self._rollouts[place] for place in range(len(self._places)))
        return Scored(self.prompt_ids, self._objective(), rollouts)

    def tell(self, state: LoopState) -> None:
        """Write down what the prompt came to."""
        state.dropped.pop(self.prompt_ids, None)
        if self.is_given_up:
            state.given_up[self.prompt_ids] = self._bound
        elif self.is_dropped:
            state.dropped[self.prompt_ids] = len(self._rollouts)
        else:
            state.add(self.result(), self._config)

    def _take(self, place: int, rollout: Rollout) -> None:
        if not math.isfinite(rollout.answer_loss + rollout.prompt_nll):
            row = self._places[place][1]
            raise FloatingPointError(f"the loss of example {row} is not finite: try dtype float32")
        self._rollouts[place] = rollout
        self.is_given_up = self._objective().value(self._config) > self._bound + TIE

    def _objective(self) -> Objective:
        return objective_of(list(self._rollouts.values()), len(self._places))
