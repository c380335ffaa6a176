"""GReaTer as an optimizer of promptolution, and our engine as one of its language models."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from greater_fast.config import Config
from greater_fast.engine import Engine
from greater_fast.examples.data import Example
from greater_fast.examples.layout import Layouts, build_layouts
from greater_fast.front_ends.missing import needs
from greater_fast.model.lm import LM
from greater_fast.model.text.chat_template import has_template, render_as
from greater_fast.rollouts.choose import make_engine
from greater_fast.runs.input import check_settings
from greater_fast.runs.models.ready import load_model
from greater_fast.runs.prepare import as_config, choose_extractor
from greater_fast.search.found import Found, find_prompts
from greater_fast.texts.generation import Asked, generate_numbered
from greater_fast.wording import listed, quoted

try:
    from promptolution.llms.base_llm import BaseLLM
    from promptolution.optimizers.base_optimizer import BaseOptimizer
    from promptolution.predictors import FirstOccurrencePredictor, MarkerBasedPredictor
    from promptolution.predictors.base_predictor import BasePredictor
    from promptolution.tasks import ClassificationTask
    from promptolution.tasks.base_task import BaseTask
    from promptolution.utils.callbacks import BaseCallback
    from promptolution.utils.prompt import Prompt
    from promptolution.utils.templates import DEFAULT_SYS_PROMPT
except ImportError as error:
    raise needs("promptolution", error) from error

_log = logging.getLogger("greater_fast")

# Settings that would be ignored, each with what decides it here.
_DECIDED = {
    **dict.fromkeys(("steps", "minutes"), "optimize(n_steps)"),
    "num_dev": "the task, on all of its rows,",
    "template": "the task",
    **dict.fromkeys(("prompt_placement", "system_prompt"), "the predictor"),
}
_INSTRUCTION = "\ue000instruction\ue000"  # where it stands in a message


class GreaterLLM(BaseLLM):
    """A language model of promptolution on our engine: what is asked for at once is one batch.

    Token counts are those of the model's own tokens. With `sampling_temperature` among the settings
    each text that is asked for has noise of its own, in the order of asking; `set_generation_seed`
    begins another order. A chat template that refuses a system message has its text before the
    user's.

    Args:
        model: what `load_lm` takes.
        config: settings, or a mapping of some of them; `max_new_tokens` limits each response.

    Raises:
        ValueError: a model or settings that cannot work, or that something else decides.
    """

    def __init__(self, model: Any, config: Config | Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config = _settings(config)
        self.lm = load_model(model, self.config)
        self.engine, _ = make_engine(self.lm, self.config)
        self.tokenizer = self.lm.tokenizer
        self._next_number = 0

    def _get_response(self, prompts: list[str], system_prompts: list[str]) -> list[str]:
        texts = [
            rendered(self.lm, self.config, system, prompt)
            for prompt, system in zip(prompts, system_prompts, strict=True)
        ]
        if not texts:
            return []
        first, self._next_number = self._next_number, self._next_number + len(texts)
        asked = Asked.of(self.lm, texts, self.config.max_new_tokens, (), None)
        found = generate_numbered(self.engine, list(enumerate(texts, first)), asked)
        self.input_token_count += sum(each.num_prompt_tokens for each in found)
        self.output_token_count += sum(each.num_tokens for each in found)
        return [each.text for each in found]

    def update_token_count(self, inputs: list[str], outputs: list[str]) -> None:
        """Do nothing: tokens were counted as they were read and written."""

    def set_generation_seed(self, seed: int) -> None:
        """Draw the next responses by a seed, where responses are sampled."""
        self._next_number = seed


class GReaTer(BaseOptimizer):
    """GReaTer beside promptolution's own optimizers: a step changes one token of the prompt.

    The gradient is taken through the model's own reasoning, up to the answer in the predictor's
    marker. While it runs, `prompts` are the best by the objective on the training rows, and
    `scores` are minus that objective; at the end the finalists and all initial prompts are
    evaluated on all rows of the task, whatever its `eval_strategy`, and that decides.

    Args:
        predictor: how the model is asked, and where its answer stands.
        task: its rows need gold answers; `config.num_train` of them are searched on, drawn by the
            seed.
        model: what `load_lm` takes; that of the predictor if it is a `GreaterLLM`.
        config: settings, or a mapping of some of them; those of the `GreaterLLM` if unset.
            Without an extractor it is the predictor's marker.
        initial_prompts: the search begins with the best of them by the objective.
        callbacks: promptolution's.
        meta_llm: not asked; experiments of promptolution hand it to all optimizers.

    Raises:
        ValueError: no model, no prompt, a task without rows or gold answers, or one that is wrong
            by any of the predictor's classes; settings that cannot work, or that something else
            decides. Where some rows alone are
            wrong by any class a RuntimeWarning says so.
    """

    prompts: list[Prompt]

    def __init__(  # noqa: PLR0913 (promptolution's constructor, and what a search takes)
        self,
        predictor: BasePredictor,
        task: BaseTask,
        model: Any = None,
        config: Config | Mapping[str, Any] | None = None,
        initial_prompts: list[str] | None = None,
        callbacks: list[BaseCallback] | None = None,
        meta_llm: BaseLLM | None = None,
    ) -> None:
        given: object = initial_prompts
        if isinstance(given, str) or (given is not None and not given):
            raise ValueError(
                f"initial_prompts: got {quoted(given)}, expected a list of one prompt at "
                "least: the search begins with it"
            )
        rows, llm = _rows_of(task), predictor.llm
        _check_classes(predictor, task)
        own = llm if isinstance(llm, GreaterLLM) else None
        if model is None and own is None:
            raise ValueError(
                f"model: got none beside a predictor that asks {type(llm).__name__}: name the "
                "local model that gradients are taken of, or give the predictor a GreaterLLM"
            )
        settings = own.config if own and config is None else _settings(config)
        lm = load_model(own.lm if own and model is None else model, settings)
        super().__init__(predictor, task, initial_prompts, callbacks)
        self.config = replace(settings, steps=1)
        drawn = random.Random(settings.seed).sample(rows, min(settings.num_train, len(rows)))
        self._given = list(self.prompts)
        self._begun = self._laid_out(lm, drawn)
        if own and lm is own.lm and config is None:
            self.engine: Engine = own.engine
        else:
            longest = max(each.longest_sequence(settings) for each in self._begun.values())
            self.engine, _ = make_engine(lm, settings, longest)
        self._found: Found | None = None

    def _laid_out(self, lm: LM, rows: Sequence[Example]) -> dict[Prompt, Layouts]:
        """The rows around each initial prompt; one that cannot stand there is left out, and told.

        Raises:
            ValueError: none of them can.
        """
        config, predictor = self.config, self.predictor
        stop_texts: list[str] = []
        if config.extractor is None and isinstance(predictor, MarkerBasedPredictor):
            mark = f"{predictor.begin_marker}{{answer}}{predictor.end_marker}"
            config, stop_texts = replace(config, extractor=mark), [predictor.begin_marker]
        extractor = choose_extractor(config, rows)
        laid_out, problems = {}, []
        for prompt in self._given:

            def around(row: Example, prompt: Prompt = prompt) -> tuple[str, str]:
                shown = Prompt(_INSTRUCTION, prompt.few_shots, prompt.downstream_template)
                message = f"{shown.construct_prompt()}\n{row.question}"  # as a predictor joins them
                text = rendered(lm, config, DEFAULT_SYS_PROMPT, message)
                before, _, after = text.partition(_INSTRUCTION)
                return before, after

            try:
                laid_out[prompt] = build_layouts(
                    *(lm, rows, prompt.instruction, extractor, config),
                    around=around,
                    stop_texts=stop_texts,
                )
            except ValueError as error:
                problems.append(f"the prompt {quoted(prompt.instruction)}: {error}")
        if not laid_out:
            raise ValueError(
                f"no initial prompt can be searched from: {problems[0]}. A line break follows the "
                "prompt: where the tokenizer merges that with its end, give "
                "Prompt(..., downstream_template='<instruction> Input:')"
            )
        for problem in problems:
            _log.warning("promptolution: not searched from: %s", problem)
        return laid_out

    @property
    def num_tried(self) -> int:
        """Prompts that were tried on the rows from that on which the search began with."""
        if self._found is None:
            return 0
        state = self._found.state
        return len({*state.scored, *state.given_up, *state.dropped})

    def _pre_optimization_loop(self) -> None:
        """Score the initial prompts on the rows, unless that is done: the best is begun with."""
        if self._found is not None:
            return
        config = replace(self.config, steps=0)
        found = {
            prompt: find_prompts(self.engine, layouts, config)
            for prompt, layouts in self._begun.items()
        }
        self._start = min(found, key=lambda prompt: found[prompt].best.objective)
        self._found = found[self._start]

    def _step(self) -> list[Prompt]:
        """One step of GReaTer; the best prompts until now, by the objective."""
        assert self._found is not None  # the loop is prepared before its steps
        layouts = self._begun[self._start]
        self._found = find_prompts(self.engine, layouts, self.config, state=self._found.state)
        self.scores = [-prompt.objective for prompt in self._found.prompts]
        return [
            Prompt(found.prompt, self._start.few_shots, self._start.downstream_template)
            for found in self._found.prompts
        ]

    def _on_train_end(self) -> None:
        """Have all rows of the task decide: of equals the prompts that were given come first."""
        entrants = list(dict.fromkeys([*self._given, *self.prompts]))
        scores = self.task.evaluate(entrants, self.predictor, eval_strategy="full").agg_scores
        order = sorted(range(len(entrants)), key=lambda number: -scores[number])
        self.prompts = [entrants[number] for number in order]
        self.scores = [float(scores[number]) for number in order]
        super()._on_train_end()


def _settings(config: Config | Mapping[str, Any] | None) -> Config:
    settings = as_config(config)
    check_settings(config, _DECIDED)
    return settings


def _rows_of(task: BaseTask) -> list[Example]:
    """A task's inputs with their gold answers."""
    if not task.xs:
        raise ValueError("task: it has no rows: give its frame some")
    if not task.has_y or not all(isinstance(y, str) and y.strip() for y in task.ys):
        raise ValueError(
            "task: its rows have no gold answers, which the gradient is of: give it a y_column"
        )
    if len(task.xs) != len(task.ys):
        raise ValueError(
            f"task: got {len(task.xs)} inputs and {len(task.ys)} answers, for rows with the same "
            "input were dropped and their answers were not: drop them before the task is made"
        )
    return [Example(x, y) for x, y in zip(task.xs, task.ys, strict=True)]


def _check_classes(predictor: BasePredictor, task: BaseTask) -> None:
    """Warn of rows that are wrong whatever the predictor reads; raise ValueError if all are."""
    if not isinstance(predictor, FirstOccurrencePredictor | MarkerBasedPredictor):
        return
    if predictor.classes is None or not isinstance(task, ClassificationTask):
        return
    begin, end = "", ""
    if isinstance(predictor, MarkerBasedPredictor):
        begin, end = predictor.begin_marker, predictor.end_marker
    written = [f"{begin}{name}{end}" for name in predictor.classes]
    read = dict.fromkeys(predictor._extract_preds(written))  # not all classes can be one word
    golds = dict.fromkeys(task.ys)
    never = [gold for gold in golds if not any(task.metric([gold], [name]) > 0 for name in read)]
    if not never:
        return
    number = sum(gold in never for gold in task.ys)
    problem = (
        f"task: {number} of {len(task.ys)} rows have gold answers that the predictor never reads, "
        f"the first is {quoted(never[0])}; of its classes it reads {listed(read)}"
    )
    if number == len(task.ys):
        raise ValueError(f"{problem}: no prompt can be right: give it the task's classes")
    warnings.warn(f"{problem}: such rows count as wrong", RuntimeWarning, stacklevel=3)


def rendered(lm: LM, config: Config, system: str, message: str) -> str:
    """A system message and a user's as the model reads them."""
    if not has_template(lm.tokenizer):
        return f"{system}\n\n{message}"
    turns = [{"role": "system", "content": system}, {"role": "user", "content": message}]
    try:
        return render_as(lm, config, turns)
    except ValueError:  # Gemma's, for one, knows no system
        return render_as(lm, config, [{"role": "user", "content": f"{system}\n\n{message}"}])
