"""Several models' evaluations of a prompt on the same rows, and their mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from greater_fast.config import Config
from greater_fast.engine import Rollout
from greater_fast.examples.layout import Layouts
from greater_fast.runs.evaluation import (
    Comparison,
    Evaluation,
    RowLog,
    compare,
    compare_values,
    evaluate_prompt,
    record_rollouts,
)
from greater_fast.runs.models.alike import names_of
from greater_fast.runs.statistics import mean_interval
from greater_fast.search.ensemble import Models, members


@dataclass(frozen=True, slots=True)
class MeanEvaluation(Evaluation):
    """How a prompt did on a set of rows with each of several models, and on average.

    `rows` are those of each model in turn, `by_model` its evaluation by its name. The models
    answer the same questions, so that there is one value a question: the share of the models that
    are right, or the mean of their metric. Interval and tests are over questions, not over answers;
    `num_correct` and `num_cut_off` count answers, of which there are `len(rows)`.
    """

    by_model: Mapping[str, Evaluation] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """Questions, each of which every model was asked."""
        return len(self.rows) // len(self.by_model)

    @property
    def accuracy(self) -> float:
        """Mean of the models' accuracies."""
        return math.fsum(self.values) / self.num_rows

    @property
    def values(self) -> list[float]:
        """Share of the models that are right, of each question; with a metric, its mean."""
        every = [own.values for own in self.by_model.values()]
        return [math.fsum(of_row) / len(of_row) for of_row in zip(*every, strict=True)]

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the mean accuracy (`mean_interval`)."""
        return mean_interval(self.values)

    def to_dict(self) -> dict[str, Any]:
        """The figures of the mean and of each model.

        `num_correct` and `num_cut_off` are of `num_answers`: each model's to each of `num_rows`
        questions.
        """
        by_model = {name: own.to_dict() for name, own in self.by_model.items()}
        counts = {"num_answers": len(self.rows), "by_model": by_model}
        return {**Evaluation.to_dict(self), **counts}


@dataclass(frozen=True, slots=True)
class MeanComparison(Comparison):
    """Two prompts on the same rows with several models: of the mean, and of each model.

    Rows are counted on which more models are right with one prompt than with the other. `p_value`
    is that of the two-sided test by sign flips, `interval` that of the mean of differences.
    """

    by_model: Mapping[str, Comparison] = field(default_factory=dict)


def evaluate_models(
    models: Models,
    layouts: Layouts,
    prompt_ids: Sequence[int],
    config: Config,
    log: RowLog | None = None,
) -> Evaluation:
    """Evaluate a prompt with one model, or with each of several; as `evaluate_prompt` does."""
    engines = members(models)
    names = _names(models, log)
    by_model: dict[str, Evaluation] = {}
    for name, own in zip(names, engines, strict=True):
        told = log.of_model(name) if log and len(names) > 1 else log
        by_model[name] = evaluate_prompt(own, layouts, prompt_ids, config, told)
    return _mean(by_model)


def recorded(
    models: Models,
    layouts: Layouts,
    prompt_ids: Sequence[int],
    config: Config,
    rollouts: Sequence[Rollout],
    log: RowLog,
) -> Evaluation | None:
    """The evaluation that a search's rollouts are, those of each model in turn.

    None where their answers were not measured, or are not there any more.
    """
    if not was_measured(rollouts):
        return None
    names = _names(models, log)
    by_model: dict[str, Evaluation] = {}
    for number, name in enumerate(names):
        own = rollouts[number * len(layouts) : (number + 1) * len(layouts)]
        by_model[name] = record_rollouts(layouts, prompt_ids, own, config)
        told = log.of_model(name) if len(names) > 1 else log
        for row, record in enumerate(by_model[name].rows):
            if row not in told.known.get("", {}):
                told.write(row, record, {})
    return _mean(by_model)


def _names(models: Models, log: RowLog | None) -> Sequence[str]:
    """What the models are known by: in a run that goes on, as it was begun."""
    return (log.names if log else ()) or names_of([own.lm for own in members(models)])


def was_measured(rollouts: Sequence[Rollout]) -> bool:
    """Whether a search measured the answers of a prompt's rollouts, and they are still there."""
    return bool(rollouts) and all(rollout.metric is not None for rollout in rollouts)


def _mean(by_model: Mapping[str, Evaluation]) -> Evaluation:
    """That of several models as one; one alone stays as it is."""
    first = next(iter(by_model.values()))
    if len(by_model) == 1:
        return first
    rows = tuple(row for own in by_model.values() for row in own.rows)
    return MeanEvaluation(first.prompt, rows, first.metric, by_model)


def compare_models(first: Evaluation, second: Evaluation) -> Comparison:
    """Paired comparison of two prompts, of one model or of several on average.

    Raises:
        ValueError: the evaluations are not of the same rows, or not of the same models.
    """
    if not isinstance(first, MeanEvaluation) or not isinstance(second, MeanEvaluation):
        return compare(first, second)
    if list(first.by_model) != list(second.by_model):
        raise ValueError("the two evaluations are of different models: a pair needs the same")
    by_model = {name: compare(own, second.by_model[name]) for name, own in first.by_model.items()}
    mean = compare_values(first, second)
    values = {f.name: getattr(mean, f.name) for f in fields(mean)}
    return MeanComparison(**values, by_model=by_model)
