"""How a search finds out what a reasoning leads to: the gold answer scored, or one measured."""

from __future__ import annotations

from functools import partial
from typing import Any

from greater_fast.config import Config
from greater_fast.examples.layout import Layouts


def measures_answers(layouts: Layouts, config: Config) -> bool:
    """Whether answers are generated and measured, in place of scoring the gold ones."""
    return layouts.metric is not None and config.objective == "error"


def behind_reasoning(layouts: Layouts, row: int, config: Config) -> dict[str, Any]:
    """What a request asks for behind the reasoning of a row, by the request's own names.

    By objective error, a metric has an answer generated and measured; else the gold one is scored.
    """
    if not measures_answers(layouts, config):
        scored = {"num_scored": len(layouts.rows[row].answer_ids)}
        return {"target_ids": layouts.target_ids(row), **scored}
    return {
        "target_ids": layouts.extractor_ids,
        "max_answer_tokens": layouts.answer_limit,
        "answer_stop": layouts.answer_stop,
        "measure": partial(layouts.measured, row),
    }
