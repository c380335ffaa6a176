"""lm-evaluation-harness: our engine as one of its models, which answers as a run does.

Source: `lm_eval.api.model.LM` of lm-eval 0.4.13.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from greater_fast.config import Config
from greater_fast.engine import Rollout, RolloutRequest
from greater_fast.examples.answers import compared_form
from greater_fast.examples.extractor import given_extractor
from greater_fast.examples.targets import lay_out_targets
from greater_fast.export.lm_eval import answer_read, export_task
from greater_fast.front_ends.missing import needs
from greater_fast.model.byte_sizes import memory_errors_explained
from greater_fast.model.text.chat_template import has_template, render_as
from greater_fast.model.text.stop_texts import StopTexts
from greater_fast.rollouts.choose import make_engine
from greater_fast.runs.directory import read_run
from greater_fast.runs.input import (
    OF_EVALUATION,
    check_mapping,
    check_settings,
    for_evaluation,
)
from greater_fast.runs.models.ready import load_model
from greater_fast.runs.prepare import as_config
from greater_fast.runs.read import one_source
from greater_fast.texts.generation import check_length
from greater_fast.wording import listed, quoted

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
except ImportError as error:
    raise needs("lm-eval", error) from error

__all__ = ["GreaterLM", "export_task"]

# Settings that would be ignored, each with what decides it here.
_DECIDED = {
    "extractor": "extractor=",
    "on_long": "the harness, which asks for all rows,",
    **dict.fromkeys(("max_prompt_tokens", "prompt_placement", "template"), "the task"),
    "metric": "the task's metric_list",
    "system_prompt": "the task's description, or system_instruction,",
}
_ANSWER_TOKENS = 32  # where a task does not say how much may be written
_KNOWN = ("until", "do_sample", "temperature", "max_gen_toks")


class GreaterLM(LM):
    """A model that reasons until it ends its turn, and is then asked for its answer.

    What it returns is the reasoning, the extractor, and the answer in the form in which answers
    are compared (`compared_form`), so that the harness' `exact_match` finds right what `evaluate`
    does. Tasks that `export_task` wrote are what it is for; others must read an answer there.

    Args:
        model: what `load_lm` takes.
        extractor: the text that asks for the answer, as of `Config.extractor`.
        config: settings, or a mapping of some of them; those of a search are without effect, which
            is warned of.

    Raises:
        ValueError: there is no such model, extractor or setting, or the task decides it.
    """

    def __init__(
        self, model: Any, extractor: str, config: Config | Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self._config, idle = for_evaluation(as_config(config))
        check_settings(config, _DECIDED)
        for note in idle:
            warnings.warn(note, RuntimeWarning, stacklevel=2)
        self.lm = load_model(model, self._config)
        self._targets = lay_out_targets(self.lm, (), given_extractor(extractor), self._config)
        self._engine, self.note = make_engine(self.lm, self._config)

    @classmethod
    def from_run(
        cls,
        run_dir: str | os.PathLike[str],
        model: Any = None,
        config: Mapping[str, Any] | None = None,
    ) -> GreaterLM:
        """The model of a run, with its extractor and its settings.

        Args:
            run_dir: the run's folder.
            model: the model again, where it was a loaded one, lies elsewhere now, or is one of
                several.
            config: settings that are to be others than the run's.

        Raises:
            ValueError: there is no run that has begun, or it is damaged; as of the class.
        """
        check_mapping(config)
        run = read_run(run_dir)["run"]
        try:
            acting = OF_EVALUATION - _DECIDED.keys() - {"tensor_parallel"}  # of that machine
            own = {name: run["config"][name] for name in run["config"] if name in acting}
            extractor = run["extractor"]
            if model is None or isinstance(model, str):
                model = one_source(run, model)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the run is damaged: {type(error).__name__}: {error}") from error
        return cls(model, extractor, {**own, **(config or {})})

    @property
    def tokenizer_name(self) -> str:
        """What the harness' cache of requests knows the rendering of contexts by."""
        return f"{self.lm.name}-{self._config.template_date}".replace("/", "__")

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as the model reads it, on the run's day and with its arguments.

        Raises:
            ValueError: there is no template, or it refuses the conversation, or leaves out or
                changes a message; the assistant's turn is begun already (`gen_prefix`).
        """
        if not has_template(self.lm.tokenizer):
            raise ValueError(f"{self.lm.name} has no chat template: leave apply_chat_template out")
        if not add_generation_prompt:
            raise ValueError("gen_prefix: the reasoning begins the assistant's turn: leave it out")
        return render_as(self.lm, self._config, chat_history)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Reasoning, extractor and answer for each request, in one batch for the same limits.

        `max_gen_toks` is for all three: the settings' `max_new_tokens` and the extractor's off,
        it is how long an answer may be. `until` ends the reasoning; an end of turn always does.

        Raises:
            ValueError: a context is empty, not of the chat template or too long; settings of the
                generation are not known, or not as those of the model.
        """
        texts = [str(request.args[0]) for request in requests]
        self._check_written_by_template(texts)
        is_plain = not has_template(self.lm.tokenizer)
        contexts = self.lm.vocabulary.encode(texts, special_tokens=is_plain)
        times = Counter[tuple[Any, Any]]()
        asked = []
        for number, (request, ids) in enumerate(zip(requests, contexts, strict=True)):
            key = (request.task_name, request.doc_id)
            row = number if request.doc_id is None else request.doc_id
            # A row is sampled as `evaluate` samples it; once more, it is another sample.
            sample = row + times[key] * len(requests)
            asked.append(self._request(ids, request.args[1], sample))
            times[key] += 1
        self._check_fit(asked, texts)
        found: dict[int, str] = {}
        # Tasks that are evaluated together may differ in these.
        kinds = {(request.max_answer_tokens, request.stop): None for request in asked}
        for kind in kinds:
            own = [n for n, r in enumerate(asked) if (r.max_answer_tokens, r.stop) == kind]
            with memory_errors_explained(self.lm.device):
                rollouts = self._engine.run([asked[number] for number in own])
            for number, rollout in zip(own, rollouts, strict=True):
                assert rollout is not None  # nothing drops a text here
                found[number] = self._written(rollout)
                args = requests[number].args
                self.cache_hook.add_partial("generate_until", args, found[number])
        return [found[number] for number in range(len(requests))]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """No continuation is scored: the answer stands behind a reasoning."""
        raise NotImplementedError("GreaterLM writes answers: take a task of generate_until")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """No text is scored."""
        raise NotImplementedError("GreaterLM writes answers: take a task of generate_until")

    def _check_written_by_template(self, texts: Sequence[str]) -> None:
        """Raise ValueError where a context has none of a template's marks that it would have."""
        if not has_template(self.lm.tokenizer):
            return
        has_marks = self.lm.vocabulary.names_special
        if not all(map(has_marks, texts)) and has_marks(
            self.apply_chat_template([{"role": "user", "content": "?"}])
        ):
            raise ValueError(
                f"{self.lm.name} has a chat template, and the contexts are not written by it: "
                "evaluate with apply_chat_template=True"
            )

    def _check_fit(self, asked: Sequence[RolloutRequest], texts: Sequence[str]) -> None:
        """Raise ValueError where a context and all that may follow do not fit the model's."""
        for request, text in zip(asked, texts, strict=True):
            behind = request.max_new_tokens + len(request.target_ids) + request.max_answer_tokens
            what = f"the context {quoted(text, 50)}"
            check_length(self._engine, len(request.prompt_ids), behind, what)

    def _request(self, ids: Sequence[int], given: Mapping[str, Any], sample: int) -> RolloutRequest:
        """What the engine is asked for a context."""
        if not ids:
            raise ValueError("a context has no token: there is nothing to go on from")
        if unknown := [name for name in given if name not in _KNOWN]:
            raise ValueError(
                f"generation_kwargs: got {listed(unknown)}, expected {listed(_KNOWN)} alone"
            )
        temperature = given.get("temperature", 1.0) if given.get("do_sample") else 0.0
        if temperature != self._config.sampling_temperature:
            raise ValueError(
                f"temperature: got {temperature} of the task, the model was made with "
                f"{self._config.sampling_temperature} (sampling_temperature)"
            )
        reasoning, target_ids = self._config.max_new_tokens, self._targets.extractor_ids
        least = reasoning + len(target_ids) + 1
        most = given.get("max_gen_toks", least - 1 + _ANSWER_TOKENS)
        if most < least:
            raise ValueError(
                f"max_gen_toks: got {most}, expected {least} at least: {reasoning} of reasoning "
                f"(max_new_tokens), {len(target_ids)} of the extractor, and an answer"
            )
        until = given.get("until") or []
        until = [until] if isinstance(until, str) else until
        vocabulary = self.lm.vocabulary
        texts = [text for text in until if not vocabulary.names_special(text)]
        return RolloutRequest(
            prompt_ids=tuple(ids),
            max_new_tokens=reasoning,
            end_ids=self.lm.end_ids | self._targets.end_ids,
            stop=StopTexts.of(vocabulary, texts, "until"),
            target_ids=target_ids,
            max_answer_tokens=most - least + 1,
            sample_key=sample,
        )

    def _written(self, rollout: Rollout) -> str:
        """The text that was written, with its answer as it is compared.

        It must be read back from the text. Gold answers are, as `export_task` sees to it: an answer
        that is not, whatever stands before it, is none of them.
        """
        extractor, text = self._targets.extractor, self.lm.vocabulary.text
        answer = compared_form(extractor.cut(text(rollout.answer_ids)))
        asks = text(self._targets.extractor_ids).removesuffix(extractor.separator)
        end = asks + extractor.answer_in_place(answer)
        candidates = (text(rollout.reasoning_ids) + end, end)
        return next((whole for whole in candidates if answer_read(extractor, whole) == answer), "")
