"""What an evaluation asks an engine for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from greater_fast.config import Config
from greater_fast.engine import RolloutRequest
from greater_fast.examples.layout import Layouts
from greater_fast.model.lm import LM


def answer_request(
    lm: LM,
    layouts: Layouts,
    row: int,
    prompt_ids: Sequence[int],
    config: Config,
) -> RolloutRequest:
    """A row's reasoning, then an answer behind the extractor, measured where rows have a metric."""
    return RolloutRequest(
        prompt_ids=layouts.context_ids(row, prompt_ids),
        max_new_tokens=config.max_new_tokens,
        end_ids=lm.end_ids | layouts.end_ids,
        stop=layouts.stop,
        target_ids=layouts.extractor_ids,
        max_answer_tokens=layouts.answer_limit,
        answer_stop=layouts.answer_stop,
        sample_key=row,
        measure=partial(layouts.measured, row) if layouts.metric else None,
    )
