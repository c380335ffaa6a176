"""The loop of GReaTer (paper, section 3): propose, take the gradient, score, select, move on."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence

from greater_fast.config import Config
from greater_fast.examples.layout import Layouts
from greater_fast.gradients.example_loss import AnswerLoss
from greater_fast.search.ensemble import Models, by_model, members
from greater_fast.search.gradient import StepGradient, step_gradient
from greater_fast.search.meter import Meter
from greater_fast.search.nouns import ALL_DONE, UNCHANGED, Candidates, Position, Step, Trial
from greater_fast.search.propose import propose
from greater_fast.search.score import score
from greater_fast.search.selection import Selection, score_prompts, select
from greater_fast.search.state import LoopState

OnStep = Callable[[Step], bool | None]
STOPPED = "stopped by on_step"


def start(models: Models, layouts: Layouts, config: Config) -> LoopState:
    """The state before the first step: the initial prompt, scored on all rows."""
    (scored,) = score_prompts(models, layouts, [layouts.prompt_ids], config)
    assert scored is not None  # nothing bounds the first prompt
    state = LoopState(incumbent=scored)
    state.add(scored, config)
    return state


def run(
    models: Models,
    layouts: Layouts,
    config: Config,
    state: LoopState,
    on_step: Callable[[Step], bool | str | None],
    loss: AnswerLoss | None = None,
) -> str:
    """Run the loop from `state`, which it keeps up to date, and say why it ended.

    `on_step` sees every finished step; a true value from it ends the run, and a text is why. `loss`
    takes the place of the answer's cross-entropy in the gradient. Each of several models has its
    own reasonings and gradient; candidates, scores and objectives are theirs together.
    """
    warned = False
    while (position := state.next_position(layouts, config)) is not None:
        meter = Meter(models)
        with meter("propose"):
            candidates = propose(models, layouts, position, config)
        with meter("gradient"):
            place = _with_placeholder(position, candidates)
            gradients = [
                step_gradient(own, layouts, seen, place, config, loss)
                for own, seen in by_model(models, state)
                if config.takes_gradients and _can_change(position, candidates, config)
            ]
        with meter("score"):
            lms = [own.lm for own in members(models)]
            vectors = [gradient.vector for gradient in gradients]
            shortlist = score(vectors, lms, layouts, candidates, position, config)
        with meter("select"):
            selection = select(models, layouts, shortlist, position, state, config)
        state.accept(selection.winner)
        step = _record(layouts, position, candidates, gradients, selection, config)
        stop = on_step(dataclasses.replace(step, **meter.readings()))
        if not warned and (note := flat_note(state, layouts, config)):
            warnings.warn(note, RuntimeWarning, stacklevel=2)
            warned = True
        if stop:
            return stop if isinstance(stop, str) else STOPPED
    return ALL_DONE if state.step >= config.steps else UNCHANGED


def _can_change(position: Position, candidates: Candidates, config: Config) -> bool:
    """Whether a gradient can find anything here: without proposals the vocabulary alone may.

    Not at a new place: what a gradient would be of does not stand there yet.
    """
    return bool(candidates.ids) or (config.candidates != "lm" and not position.grows)


def _with_placeholder(position: Position, candidates: Candidates) -> Position:
    """Where the gradient is taken: a new place holds the likeliest proposal for it meanwhile."""
    if not position.grows or not candidates.ids:
        return position
    return dataclasses.replace(position, prompt_ids=position.with_token(candidates.likeliest))


def _record(
    layouts: Layouts,
    position: Position,
    candidates: Candidates,
    gradients: Sequence[StepGradient],
    selection: Selection,
    config: Config,
) -> Step:
    """A finished step as it is logged; what it cost is filled in by the meter."""
    winner = selection.winner
    trials = tuple(
        Trial(
            token_id=token_id,
            token=layouts.vocabulary.text([token_id]),
            score=score,
            objective=scored.objective.value(config) if scored else None,
            error_rate=scored.objective.error_rate if scored else None,
            dropped_after=selection.dropped.get(token_id),
        )
        for (token_id, score), scored in zip(
            selection.shortlist.items(), selection.scored, strict=True
        )
    )
    return Step(
        step=position.step,
        index=position.index,
        grows=position.grows,
        prompt=layouts.prompt_text(winner.prompt_ids),
        prompt_ids=winner.prompt_ids,
        objective=winner.objective.value(config),
        error_rate=winner.objective.error_rate,
        candidate_ids=candidates.ids,
        candidate_top_k=candidates.top_k,
        trials=trials,
        changed=winner.prompt_ids != position.prompt_ids,
        num_contrasted=_total([gradient.num_contrasted for gradient in gradients]),
    )


def _total(numbers: Sequence[int | None]) -> int | None:
    """Their sum, over several models; None where they are not known."""
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def flat_note(state: LoopState, layouts: Layouts, config: Config) -> str | None:
    """A line where the error rate tells no prompts apart, or no further ones; else None."""
    counts = {s.objective.num_wrong for s in state.scored.values()}
    num_tried = len({*state.scored, *state.given_up, *state.dropped})
    all_wrong = {state.incumbent.objective.num_rows}  # of all models together
    if config.objective != "error" or num_tried < 2 or counts not in ({0}, all_wrong):
        return None
    if counts == {0}:
        found, so, use = "right", "none can have fewer errors", "harder rows"
    else:
        finds = "finds the answer in what is written (numeric, contains)"
        metric = f"a metric that {'counts gold answers as right' if layouts.metric else finds}"
        found, so, use = "wrong", "fluency alone decides", f"easier rows, {metric}"
    are_cut_off = all(r.is_cut_off(config.max_new_tokens) for r in state.incumbent.rollouts)
    return (
        f"all {len(layouts)} training rows are {found} for every prompt that was scored, so {so}: "
        f"use {use}, another extractor, or objective 'loss'"
        + (" (all reasonings were cut off: raise max_new_tokens)" if are_cut_off else "")
    )
