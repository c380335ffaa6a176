"""A language model of promptolution on our engine, and the texts that it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from promptolution.llms.base_llm import BaseLLM

from greater_fast.config import Config
from greater_fast.model.lm import LM
from greater_fast.model.text.chat_template import has_template, render_as
from greater_fast.rollouts.choose import make_engine
from greater_fast.runs.input import check_settings
from greater_fast.runs.models.ready import load_model
from greater_fast.runs.prepare import as_config
from greater_fast.texts.generation import Asked, generate_numbered

# Settings that would be ignored, each with what decides it here.
DECIDED = {
    **dict.fromkeys(("steps", "minutes"), "optimize(n_steps)"),
    "num_dev": "the task, on all of its rows,",
    "template": "the task",
    **dict.fromkeys(("prompt_placement", "system_prompt"), "the predictor"),
}


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
        self.config = as_config(config)
        check_settings(config, DECIDED)
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


def rendered(lm: LM, config: Config, system: str, message: str) -> str:
    """A system message and a user's as the model reads them."""
    if not has_template(lm.tokenizer):
        return f"{system}\n\n{message}"
    turns = [{"role": "system", "content": system}, {"role": "user", "content": message}]
    try:
        return render_as(lm, config, turns)
    except ValueError:  # Gemma's, for one, knows no system
        return render_as(lm, config, [{"role": "user", "content": f"{system}\n\n{message}"}])
