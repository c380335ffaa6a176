"""How all arms of `peers` are asked: reasoning, then an answer behind the extractor."""

from promptolution.predictors.base_predictor import BasePredictor
from promptolution.utils.templates import DEFAULT_SYS_PROMPT

from greater_fast.engine import RolloutRequest
from greater_fast.examples.extractor import Extractor
from greater_fast.front_ends.promptolution import GreaterLLM, rendered
from greater_fast.model.text.chat_template import has_template


class AskedAnswer(BasePredictor):
    """The reasoning, then the answer behind an extractor: what `evaluate` does, for any prompt."""

    def __init__(self, llm: GreaterLLM, extractor: Extractor, max_answer_tokens: int) -> None:
        super().__init__(llm)
        self.extractor, self._max_answer_tokens = extractor, max_answer_tokens

    def predict(
        self,
        prompts: str | list[str],
        xs: list[str],
        system_prompts: str | list[str] | None = None,
    ) -> tuple[list[str], list[str]]:
        """Answers, and what was written with its input before it; prompts are those of the rows."""
        if not xs:
            return [], []
        llm = self.llm
        each = [prompts] * len(xs) if isinstance(prompts, str) else prompts
        texts = [
            rendered(llm.lm, llm.config, DEFAULT_SYS_PROMPT, f"{prompt}\n{x}")
            for prompt, x in zip(each, xs, strict=True)
        ]
        vocabulary, asks = llm.lm.vocabulary, self.extractor.in_place()
        own = not has_template(llm.lm.tokenizer)
        requests = [
            RolloutRequest(
                prompt_ids=tuple(ids),
                max_new_tokens=llm.config.max_new_tokens,
                end_ids=llm.lm.end_ids,
                target_ids=vocabulary.ids(asks),
                max_answer_tokens=self._max_answer_tokens,
            )
            for ids in vocabulary.encode(texts, special_tokens=own)
        ]
        answers, written = [], []
        for x, rollout in zip(xs, llm.engine.run(requests), strict=True):
            answers.append(vocabulary.text(rollout.answer_ids))
            reasoning = vocabulary.plain_text(rollout.reasoning_ids)
            written.append(f"{x}\n{reasoning}{asks}{answers[-1]}")
        return self._extract_preds(answers), written

    def _extract_preds(self, preds: list[str]) -> list[str]:
        return [self.extractor.cut(text).lower() for text in preds]
