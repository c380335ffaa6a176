"""Searches by GreaterPrompt's calls: one for each prompt that rows start from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from torch.utils.data import Dataset

from greater_fast.config import Config
from greater_fast.engine import Engine
from greater_fast.examples.extractor import make_extractor
from greater_fast.examples.layout import Layouts, build_layouts
from greater_fast.front_ends.greaterprompt.dataloader import GreaterDataloader, examples_by_prompt
from greater_fast.front_ends.greaterprompt.settings import config_of, loss_of, notes_on, warn_of
from greater_fast.gradients.example_loss import try_loss
from greater_fast.rollouts.choose import make_engine
from greater_fast.runs.models.ready import load_model
from greater_fast.runs.progress import told
from greater_fast.search.found import find_prompts
from greater_fast.search.nouns import Step
from greater_fast.wording import printable, quoted

# By question, each prompt with its loss.
Prompts = dict[str, list[tuple[str, float]]]
# Called with the share of the work that is done, and what is done now.
Callback = Callable[[float, dict[str, Any]], object]
# Anything that gives rows one by one: a `Subset` of a loader too, or a generator.
Rows = GreaterDataloader | Dataset[dict[str, Any]] | Iterable[Mapping[str, Any]]

_log = logging.getLogger("greater_fast")


class GreaterOptimizer:
    """Searches prompts for a loaded model, which is put in eval mode and frozen.

    Args:
        model: a transformers model, or whatever else `load_lm` takes. A loaded one stays where it
            is, of the type that it has.
        tokenizer: its tokenizer. With a chat template questions are put as a user's message; one
            without has them as plain text.
        optimize_config: settings by GreaterPrompt's names: `intersect_q`, `candidates_topk`,
            `loss_function`, `perplexity_loss`, `perplexity_lambda`, `filter` (without effect: every
            prompt found is text that stays the same tokens), and `generate_config` with
            `do_sample`, `temperature` and `max_new_tokens`.
        config: further settings by our names, which take the place of these.

    `notes` say of the last call what its losses and prompts are. `found` holds what it returns, and
    is filled as each of its searches ends: what ends a later one, Ctrl-C too, loses no earlier one.

    Raises:
        ValueError: an unknown name, a value out of range, a setting that something else decides, or
            a model that is refused.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        optimize_config: Mapping[str, Any] | None = None,
        *args: object,
        config: Mapping[str, Any] | None = None,
        **others: object,
    ) -> None:
        warn_of("GreaterOptimizer", [*(f"argument {i}" for i, _ in enumerate(args, 4)), *others])
        given = {} if optimize_config is None else optimize_config
        self.config = config_of(given, config or {})
        self.loss = loss_of(given.get("loss_function"))
        self.notes: tuple[str, ...] = ()
        self.found: Prompts = {}
        self.lm = load_model(model, self.config, tokenizer)

    def optimize(self, inputs: Rows, p_extractor: str, rounds: int) -> Prompts:
        """Search for as many rounds at most from each prompt of the rows.

        Rows with the same prompt are searched on together. Their questions get the same list, the
        best prompts found and the initial one, each with its mean loss on these rows, which is the
        cross-entropy of their answers in nats whatever the loss function, from the lowest on.

        Raises:
            ValueError: rows, extractor or loss function that cannot work, before any search.
        """
        return self._optimize(inputs, p_extractor, rounds, None)

    def optimize_streamlit(
        self, inputs: Rows, p_extractor: str, rounds: int, callback: Callback | None = None
    ) -> Prompts:
        """The same, telling `callback` in place of standard error as each round begins.

        It is called with the share of the work that is done, and a dict of `batch` and
        `total_batches` (the searches), `round`, `total_rounds`, and `loss`: what is minimised, of
        the best prompt so far, or None. The last call is `callback(1.0, {"status": "complete"})`.
        """
        found = self._optimize(inputs, p_extractor, rounds, callback)
        if callback is not None:
            callback(1.0, {"status": "complete"})
        return found

    def _optimize(
        self, inputs: Rows, p_extractor: str, rounds: int, callback: Callback | None
    ) -> Prompts:
        if type(rounds) is not int or rounds < 1:
            raise ValueError(f"rounds: got {quoted(rounds)}, expected a whole number from 1 on")
        try:
            iterator = iter(inputs)
        except TypeError as error:
            raise ValueError(f"inputs: got {quoted(inputs)}, expected rows") from error
        rows = list(iterator)
        examples = examples_by_prompt(rows)
        config, extractor = replace(self.config, steps=rounds), make_extractor(p_extractor)
        batches = [
            build_layouts(self.lm, own, prompt, extractor, config)
            for prompt, own in examples.items()
        ]
        if self.loss is not None:
            try_loss(
                self.loss, self.lm, [row.answer_ids for batch in batches for row in batch.rows]
            )
        longest = max(layouts.longest_sequence(config) for layouts in batches)
        num_sequences = config.shortlist_size * max(map(len, batches))
        engine, engine_note = make_engine(self.lm, config, longest, num_sequences)
        self.notes = (*notes_on(config, self.loss, examples), engine_note)
        for note in self.notes:
            _log.info("%s", printable(note))
        self.found = {row["question"]: [] for row in rows}
        for number, (own, layouts) in enumerate(zip(examples.values(), batches, strict=True)):
            begins = _RoundBegins(number, len(batches), rounds, callback)
            try:
                prompts = self._search(engine, layouts, config, begins)
            except BaseException as error:
                if number:
                    done = f"{number} of {len(batches)} searches had ended"
                    error.add_note(f"{done}: what they found is in the optimizer's `found`")
                raise
            for question in dict.fromkeys(example.question for example in own):
                self.found[question] = sorted(self.found[question] + prompts, key=itemgetter(1))
        return self.found

    def _search(
        self, engine: Engine, layouts: Layouts, config: Config, begins: _RoundBegins
    ) -> list[tuple[str, float]]:
        """The prompts found from one, with their losses; told by a bar where no callback is."""
        with told(begins.callback is None, num_steps=config.steps) as teller:
            teller.say(f"prompt {begins.batch + 1} of {begins.num_batches}, {len(layouts)} rows")
            begins(0, None)

            def on_step(step: Step) -> None:
                teller.step(step)
                begins(step.step + 1, step.objective)

            found = find_prompts(engine, layouts, config, on_step=on_step, loss=self.loss)
        return [(prompt.prompt, prompt.answer_loss) for prompt in found.prompts]


@dataclass(frozen=True, slots=True)
class _RoundBegins:
    """Tells a callback that a round of a batch begins; all of them count from 0 here."""

    batch: int
    num_batches: int
    num_rounds: int
    callback: Callback | None

    def __call__(self, number: int, loss: float | None) -> None:
        if self.callback is None or number >= self.num_rounds:
            return
        info = {
            "batch": self.batch + 1,
            "total_batches": self.num_batches,
            "round": number + 1,
            "total_rounds": self.num_rounds,
            "loss": loss,
        }
        self.callback((self.batch + number / self.num_rounds) / self.num_batches, info)
