"""A search by itself: from rows that are laid out to the prompts found.

Nothing is written, and no development row is asked: that is what a run adds (`greater_fast.runs`).
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from greater_fast.config import Config
from greater_fast.examples.layout import Layouts
from greater_fast.examples.metrics import name_of_metric
from greater_fast.gradients.example_loss import AnswerLoss
from greater_fast.model.byte_sizes import memory_errors_explained
from greater_fast.search.checks import (
    check_engines,
    check_functions,
    check_no_race,
    check_stop_texts,
)
from greater_fast.search.ensemble import Models, members
from greater_fast.search.judge import Judge, judged
from greater_fast.search.nouns import Scored
from greater_fast.search.optimizer import OnStep, run, start
from greater_fast.search.state import LoopState
from greater_fast.wording import listed, printable

# Settings that a prompt's objective depends on.
_OF_SCORING = (
    *("objective", "metric", "temperature", "fluency_weight", "error_fluency_weight"),
    *("max_new_tokens", "sampling_temperature"),
)


@dataclass(frozen=True, slots=True)
class FoundPrompt:
    """A prompt, and what the search knows of it on the rows that it was searched on.

    `objective` is what was minimised, `prompt_nll` the mean -log p of the prompt's tokens in nats,
    `answer_loss` the mean cross-entropy of the gold answers at the temperature of the loss (0 where
    answers were measured in its place). `judged` is what the judge gave it, if there was one.
    """

    prompt: str
    prompt_ids: tuple[int, ...]
    objective: float
    error_rate: float
    answer_loss: float
    prompt_nll: float
    judged: float | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The prompts that a search found, best first, the initial one among them; why it ended.

    `num_steps` were done in all; a further search goes on from `state`, which stays as it is.
    """

    prompts: tuple[FoundPrompt, ...]
    initial: FoundPrompt
    num_steps: int
    stopped: str
    state: LoopState = field(repr=False, compare=False)

    @property
    def best(self) -> FoundPrompt:
        """The first of the prompts."""
        return self.prompts[0]

    def judged_by(self, judge: Judge) -> Found:
        """The same prompts in the order of what a judge gives them, as of `find_prompts`.

        Raises:
            ValueError: it gives something else than a finite number for each.
        """
        values = judged(judge, [prompt.prompt for prompt in self.prompts])
        found = [
            replace(prompt, judged=value)
            for prompt, value in zip(self.prompts, values, strict=True)
        ]
        own = found[self.prompts.index(self.initial)]
        found.sort(key=lambda prompt: (-(prompt.judged or 0.0), prompt is not own))
        return replace(self, prompts=tuple(found), initial=own)


def find_prompts(  # noqa: PLR0913 (one entry point, four of its arguments by keyword)
    models: Models,
    layouts: Layouts,
    config: Config,
    *,
    on_step: OnStep | None = None,
    loss: AnswerLoss | None = None,
    judge: Judge | None = None,
    state: LoopState | None = None,
) -> Found:
    """Search from the prompt of `layouts`, on all of its rows: the loop of GReaTer, and no finals.

    Args:
        models: an engine made by `make_engine`, or an `Ensemble` of several.
        layouts: rows as `build_layouts` lays them out.
        config: settings; the `num_finalists` best prompts are returned, and the initial one.
            `minutes` is ignored, which is warned of.
        on_step: called with every finished `Step`; a true value from it ends the search.
        loss: what the gradient is of, as of `optimize`.
        judge: called once with the texts of these prompts, in the order of their objective; what
            it gives each decides their order, the more the better. Of equals the initial prompt
            comes first, for there is no reason to change it, then the lower objective. Without a
            judge the order is that of the objective.
        state: `Found.state` of an earlier search on these rows, in this order and with the settings
            that scored them, to go on from by `steps` more: as one search of so many steps in all
            would have gone.

    Raises:
        ValueError: settings that do not go with several models, the loss or stop texts, or that
            the engine was not made with; a state of another search; both before any step. The judge
            gives something else than a finite number for each prompt.
        FloatingPointError: a loss or gradient is not finite.
        MemoryError: the gradient of one example, or a step of rollouts, does not fit the memory.

    A note on these, on what the functions raise, and on a KeyboardInterrupt, has the best prompt
    until then.
    """
    check_engines(members(models), config)
    check_no_race(len(members(models)), config)
    check_functions(on_step, loss, config, judge)
    check_stop_texts(layouts.stop, config)
    if config.minutes is not None:
        warnings.warn(
            "minutes: without effect on find_prompts: a true value from on_step ends the search",
            RuntimeWarning,
            stacklevel=2,
        )
    if state is None:
        with memory_errors_explained(models.lm.device):
            state = start(models, layouts, config)
    else:
        state = _gone_on_with(state, models, layouts, config)
        config = replace(config, steps=state.step + config.steps)
    state.scored_with = _scored_with(models, layouts, config)
    with _best_prompt_noted(state, layouts, config):
        with memory_errors_explained(models.lm.device):
            stopped = run(models, layouts, config, state, on_step or (lambda _: False), loss)
        found = _all_found(layouts, config, state, stopped)
        return found if judge is None else found.judged_by(judge)


def _gone_on_with(state: LoopState, models: Models, layouts: Layouts, config: Config) -> LoopState:
    """A state of its own for a search that goes on."""
    initial = state.scored.get(layouts.prompt_ids)
    differs = state.scored_with not in ("", _scored_with(models, layouts, config))
    num_rollouts = len(members(models)) * len(layouts)
    if differs or initial is None or len(initial.rollouts) != num_rollouts:
        raise ValueError(
            "state: it is of a search with another model, from another prompt, on other rows, or "
            f"with other settings of {listed(_OF_SCORING, len(_OF_SCORING))}: pass those of that "
            "search, or no state"
        )
    own = state.copy()
    own.restock(config)
    return own


def _scored_with(models: Models, layouts: Layouts, config: Config) -> str:
    """A digest of what a prompt's objective depends on: models, rows and settings.

    A model is known by its name and the type of its numbers, a metric of one's own by its name.
    """
    lms = [(own.lm.name, str(own.lm.dtype), sorted(own.lm.end_ids)) for own in members(models)]
    metric = name_of_metric(layouts.metric)
    stops = [stop and stop.texts for stop in (layouts.stop, layouts.answer_stop)]
    seed = config.seed if config.sampling_temperature else None
    settings = [getattr(config, name) for name in _OF_SCORING]
    of_all = (lms, metric, layouts.extractor_ids, stops, seed, settings)
    digest = hashlib.sha256(repr(of_all).encode())
    for row in layouts.rows:
        ids = (row.head_ids, row.tail_ids, row.answer_ids)
        golds = (row.example.answers, row.example.as_given.answers)
        digest.update(repr((ids, *golds)).encode())
    return digest.hexdigest()


@contextlib.contextmanager
def _best_prompt_noted(state: LoopState, layouts: Layouts, config: Config) -> Iterator[None]:
    """Whatever ends what is done within, Ctrl-C too, tells of the best prompt until then."""
    try:
        yield
    except BaseException as error:
        (best,) = state.best(1, config)
        prompt = printable(layouts.prompt_text(best.prompt_ids))
        error.add_note(f"the best prompt until then: {prompt}")
        raise


def _all_found(layouts: Layouts, config: Config, state: LoopState, stopped: str) -> Found:
    initial, best = state.scored[layouts.prompt_ids], state.best(config.num_finalists, config)
    finalists = best if initial in best else [*best, initial]
    found = [_found(each, layouts.prompt_text(each.prompt_ids), config) for each in finalists]
    return Found(tuple(found), found[finalists.index(initial)], state.step, stopped, state)


def _found(scored: Scored, text: str, config: Config) -> FoundPrompt:
    return FoundPrompt(
        prompt=text,
        prompt_ids=scored.prompt_ids,
        objective=scored.objective.value(config),
        error_rate=scored.objective.error_rate,
        answer_loss=scored.objective.answer_loss,
        prompt_nll=scored.objective.prompt_nll,
    )
