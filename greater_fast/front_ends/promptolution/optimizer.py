"""The optimizer: steps of GReaTer between promptolution's callbacks, judged by its task."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from promptolution.llms.base_llm import BaseLLM
from promptolution.optimizers.base_optimizer import BaseOptimizer
from promptolution.predictors import MarkerBasedPredictor
from promptolution.predictors.base_predictor import BasePredictor
from promptolution.tasks.base_task import BaseTask
from promptolution.utils.callbacks import BaseCallback
from promptolution.utils.prompt import Prompt
from promptolution.utils.templates import DEFAULT_SYS_PROMPT

from greater_fast.config import Config
from greater_fast.engine import Engine
from greater_fast.examples.data import Example
from greater_fast.examples.layout import Layouts, build_layouts
from greater_fast.examples.placing.fitting import which_fit
from greater_fast.front_ends.engines import can_search
from greater_fast.front_ends.promptolution.llm import DECIDED, GreaterLLM, rendered
from greater_fast.front_ends.promptolution.tasks import check_classes, rows_of
from greater_fast.model.lm import LM
from greater_fast.model.text.chat_template import has_template
from greater_fast.rollouts.choose import make_engine
from greater_fast.runs.input import changed_settings, check_settings
from greater_fast.runs.models.ready import load_model
from greater_fast.runs.prepare import as_config, choose_extractor
from greater_fast.search.found import Found, find_prompts
from greater_fast.wording import quoted

_log = logging.getLogger("greater_fast")
# What to do where a row is too long, which cannot be dropped: all of them decide at the end.
_DECIDING = (
    "take them out of the task, all of whose rows decide at the end, or lower max_prompt_tokens or "
    "the GreaterLLM's max_new_tokens"
)
_INSTRUCTION = "\ue000instruction\ue000"  # where it stands in a message


class GReaTer(BaseOptimizer):
    """GReaTer beside promptolution's own optimizers: a step changes one token of the prompt.

    The gradient is taken through the model's own reasoning, up to the answer in the predictor's
    marker. While it runs, `prompts` are the best by the objective on the training rows, and
    `scores` are minus that objective; at the end the finalists and all initial prompts are
    evaluated on all rows of the task, whatever its `eval_strategy`, and that decides. What a search
    reads and writes is counted by the predictor's language model, for callbacks that count tokens.

    Args:
        predictor: how the model is asked, and where its answer stands.
        task: its rows need gold answers; `config.num_train` of them are searched on, drawn by the
            seed.
        model: what `load_lm` takes; that of the predictor if it is a `GreaterLLM`.
        config: settings, or a mapping of some of them: the others are those of the `GreaterLLM`
            where its model is searched with. Without an extractor it is the predictor's marker.
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
        rows, llm = rows_of(task), predictor.llm
        check_classes(predictor, task)
        own = llm if isinstance(llm, GreaterLLM) else None
        if model is None and own is None:
            raise ValueError(
                f"model: got none beside a predictor that asks {type(llm).__name__}: name the "
                "local model that gradients are taken of, or give the predictor a GreaterLLM"
            )
        check_settings(config, DECIDED)
        if own and model is None:
            settings, model = _settings(own, config), own.lm
        else:
            settings = as_config(config)
        lm = load_model(model, settings)
        super().__init__(predictor, task, initial_prompts, callbacks)
        self.config = replace(settings, steps=1)
        drawn = random.Random(settings.seed).sample(rows, min(settings.num_train, len(rows)))
        self._given = list(self.prompts)
        self._begun = self._laid_out(lm, drawn)
        if own:
            self._check_fit(own, rows)
        if own and lm is own.lm and can_search(own.engine, own.config, settings):
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
                before, _, after = _asked(lm, config, shown, row).partition(_INSTRUCTION)
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

    def _check_fit(self, llm: GreaterLLM, rows: Sequence[Example]) -> None:
        """Raise ValueError where a row that decides at the end does not fit the model's context.

        It is asked with prompts of up to `max_prompt_tokens`.
        """
        for prompt, layouts in self._begun.items():
            texts = [_asked(llm.lm, llm.config, prompt, row) for row in rows]
            is_plain = not has_template(llm.lm.tokenizer)
            encoded = llm.lm.vocabulary.encode(texts, special_tokens=is_plain)
            needs = [len(ids) - len(layouts.prompt_ids) for ids in encoded]
            config = replace(llm.config, max_prompt_tokens=self.config.max_prompt_tokens)
            names = [f"row {number} of the task" for number in range(len(rows))]
            which_fit(llm.lm, needs, names, replace(config, on_long="error"), _DECIDING)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Have the predictor's language model count what is read and written meanwhile."""
        engine, llm = self.engine, self.predictor.llm
        written, passed = engine.num_generated_tokens, engine.num_forward_tokens
        try:
            yield
        finally:
            written = engine.num_generated_tokens - written
            if isinstance(llm, BaseLLM):
                llm.output_token_count += written
                llm.input_token_count += engine.num_forward_tokens - passed - written

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
        with self._counted():
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
        with self._counted():
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


def _settings(llm: GreaterLLM, config: Config | Mapping[str, Any] | None) -> Config:
    """Those of a search on a language model's own: what a mapping leaves out is as there.

    Raises:
        ValueError: a mapping has another rendering of the chat template than the predictor's.
    """
    if isinstance(config, Config):
        return as_config(config)
    given, own = dict(config or {}), llm.config.to_dict()
    asked = changed_settings(given)  # defaults ask for nothing
    for name in ("chat_template_kwargs", "template_date"):
        if asked.get(name, own[name]) != own[name]:
            raise ValueError(f"config: {name} is the predictor's: give it to its GreaterLLM")
        given.pop(name, None)
    return Config.from_mapping({**own, **given})


def _asked(lm: LM, config: Config, prompt: Prompt, row: Example) -> str:
    """A row's text as the model reads it, joined as a predictor does."""
    message = f"{prompt.construct_prompt()}\n{row.question}"
    return rendered(lm, config, DEFAULT_SYS_PROMPT, message)
