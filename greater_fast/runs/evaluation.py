"""Accuracy of a prompt on rows: reasoning, then the answer generated and compared, or measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from greater_fast.config import Config
from greater_fast.engine import RIGHT_FROM, Engine, Rollout
from greater_fast.examples.answers import matching_gold
from greater_fast.examples.data import Example
from greater_fast.examples.layout import Layouts
from greater_fast.examples.metrics import name_of_metric
from greater_fast.runs.rows.asking import answer_request
from greater_fast.runs.statistics import (
    mcnemar_exact,
    mean_interval,
    newcombe_interval,
    sign_flip_test,
    wilson_interval,
)


@dataclass(frozen=True, slots=True)
class RowRecord:
    """One row of an evaluation, as it is written down.

    `gold` is the gold answer that the predicted one equals, the first where it equals none; the
    reasoning is `cut_off` where it came to the token limit. A row with a `metric` is correct where
    that is a half or more.
    """

    question: str
    gold: str
    predicted: str
    correct: bool
    reasoning: str
    cut_off: bool = False
    metric: float | None = None

    @property
    def value(self) -> float:
        """What the row counts, in [0, 1]: its metric, or without one whether it is correct."""
        return float(self.correct) if self.metric is None else self.metric

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; without a metric, nothing is said of one."""
        return _without_none(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RowRecord:
        """The row that `to_dict` wrote, whatever is written beside it."""
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})


@dataclass(frozen=True, slots=True)
class RowLog:
    """Where an evaluation's rows go as they end, and those that were there before it began.

    `write` gets the number of each row that ends, the row, and what names its model where there are
    several. `known` has rows that are not run again, by model ("" of one alone) and number. There
    its `names` are those that its models had where it was begun; () for those that they have now.
    """

    write: Callable[[int, RowRecord, Mapping[str, str]], object]
    known: Mapping[str, Mapping[int, RowRecord]] = field(default_factory=dict)
    names: Sequence[str] = ()

    def of_model(self, name: str) -> RowLog:
        """The log for one of several models."""
        known = {"": self.known.get(name, {})}
        return RowLog(lambda number, row, _: self.write(number, row, {"model": name}), known)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a prompt did on a set of rows; `metric` names what measured them, if anything did."""

    prompt: str
    rows: tuple[RowRecord, ...] = field(repr=False)
    metric: str | None = None

    @property
    def num_rows(self) -> int:
        """Rows evaluated."""
        return len(self.rows)

    @property
    def num_correct(self) -> int:
        """Rows whose generated answer equals a gold one, or has a metric of a half or more."""
        return sum(row.correct for row in self.rows)

    @property
    def accuracy(self) -> float:
        """Share of the rows that are correct; with a metric, its mean."""
        if self.is_graded:
            return math.fsum(self.values) / self.num_rows
        return self.num_correct / self.num_rows

    @property
    def is_graded(self) -> bool:
        """Whether some row is neither right nor wrong, but something between."""
        return any(row.value not in (0, 1) for row in self.rows)

    @property
    def values(self) -> list[float]:
        """What each row counts, in [0, 1]."""
        return [row.value for row in self.rows]

    @property
    def num_cut_off(self) -> int:
        """Rows whose reasoning came to the token limit before the model ended it."""
        return sum(row.cut_off for row in self.rows)

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the accuracy: Wilson's, or `mean_interval` of values between 0 and 1."""
        if self.is_graded:
            return mean_interval(self.values)
        return wilson_interval(self.num_correct, self.num_rows)

    def to_dict(self) -> dict[str, Any]:
        """The figures, without the rows; without a metric, nothing is said of one."""
        return _without_none(
            {
                "prompt": self.prompt,
                "accuracy": self.accuracy,
                "interval": list(self.interval),
                "num_correct": self.num_correct,
                "num_rows": self.num_rows,
                "num_cut_off": self.num_cut_off,
                "metric": self.metric,
            }
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two prompts on the same rows: how many rows only one of them answers right, and p of chance.

    `p_value` is McNemar's exact two-sided test. `difference` is the first accuracy minus the
    second, `interval` its 95% interval for pairs (Newcombe). Where a metric gave values between 0
    and 1, `test` names another test, rows are counted that one prompt does better, and the interval
    is `mean_interval`'s.
    """

    num_only_first: int
    num_only_second: int
    p_value: float
    difference: float
    interval: tuple[float, float]
    test: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; of McNemar's test, no name is said."""
        return _without_none(asdict(self))


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """Paired comparison of two prompts.

    Raises:
        ValueError: the evaluations are not of the same rows.
    """
    if [r.question for r in first.rows] != [r.question for r in second.rows]:
        raise ValueError("the two evaluations are of different rows: a paired test needs the same")
    if first.is_graded or second.is_graded:
        return compare_values(first, second)
    pairs = [(a.correct, b.correct) for a, b in zip(first.rows, second.rows, strict=True)]
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    both, neither = pairs.count((True, True)), pairs.count((False, False))
    return Comparison(
        only_first,
        only_second,
        p_value=mcnemar_exact(only_first, only_second),
        difference=(only_first - only_second) / len(pairs),
        interval=newcombe_interval(both, only_first, only_second, neither),
    )


def compare_values(first: Evaluation, second: Evaluation) -> Comparison:
    """Paired comparison by values in [0, 1], row by row: sign flips, and their mean's interval."""
    differences = [a - b for a, b in zip(first.values, second.values, strict=True)]
    low, high = mean_interval([(1 + d) / 2 for d in differences])
    return Comparison(
        sum(d > 0 for d in differences),
        sum(d < 0 for d in differences),
        p_value=sign_flip_test(differences),
        difference=math.fsum(differences) / len(differences),
        interval=(2 * low - 1, 2 * high - 1),
        test="sign flips",
    )


def cut_off_notes(name: str, num_cut_off: int, number: int, config: Config) -> tuple[str, ...]:
    """A line on reasonings that the token limit ended; none where it ended none."""
    if not num_cut_off:
        return ()
    return (
        f"{name}: {num_cut_off} of {number} reasonings were cut off at "
        f"{config.max_new_tokens} tokens (max_new_tokens)",
    )


def evaluate_prompt(
    engine: Engine,
    layouts: Layouts,
    prompt_ids: Sequence[int],
    config: Config,
    log: RowLog | None = None,
) -> Evaluation:
    """Generate each row's reasoning, then its answer behind the extractor, and compare with gold.

    Where rows have a metric, that is called with each answer, once, in place of comparing. Answers
    may be as long as `Layouts.answer_limit`. The `log` gets a row as soon as it and all before it
    are there, and where something ends the evaluation, the others that are; rows that it knows are
    taken from it.
    """
    found = dict(log.known.get("", {})) if log else {}
    rows = [row for row in range(len(layouts)) if row not in found]
    waiting = list(rows)  # to be told, in their order
    requests = [answer_request(engine.lm, layouts, row, prompt_ids, config) for row in rows]

    def tell(row: int) -> None:
        waiting.remove(row)
        if log:
            log.write(row, found[row], {})

    def finished(number: int, rollout: Rollout | None) -> tuple[int, ...]:
        row = rows[number]
        found[row] = _record(layouts, row, rollout, config.max_new_tokens)
        while waiting and waiting[0] in found:
            tell(waiting[0])
        return ()

    try:
        rollouts = engine.run(requests, *([finished] if log else [])) if requests else []
    except BaseException:
        for row in [row for row in waiting if row in found]:
            tell(row)
        raise
    for number in [n for n, row in enumerate(rows) if row not in found]:
        finished(number, rollouts[number])
    return _evaluation(layouts, prompt_ids, [found[row] for row in range(len(layouts))])


def record_rollouts(
    layouts: Layouts, prompt_ids: Sequence[int], rollouts: Sequence[Rollout], config: Config
) -> Evaluation:
    """The evaluation that rollouts on all rows with measured answers already are."""
    records = [_record(layouts, n, r, config.max_new_tokens) for n, r in enumerate(rollouts)]
    return _evaluation(layouts, prompt_ids, records)


def _evaluation(
    layouts: Layouts, prompt_ids: Sequence[int], records: Sequence[RowRecord]
) -> Evaluation:
    name = name_of_metric(layouts.metric)
    return Evaluation(layouts.prompt_text(prompt_ids), tuple(records), name)


def _record(
    layouts: Layouts, number: int, rollout: Rollout | None, max_new_tokens: int
) -> RowRecord:
    """What became of a row."""
    assert rollout is not None  # nothing drops a row here
    return row_record(
        layouts.rows[number].example,
        layouts.predicted(rollout.answer_ids),
        layouts.vocabulary.plain_text(rollout.reasoning_ids),
        cut_off=rollout.is_cut_off(max_new_tokens),
        metric=rollout.metric,
    )


def row_record(
    example: Example, predicted: str, reasoning: str, *, cut_off: bool, metric: float | None
) -> RowRecord:
    """A row with what was predicted, held against its gold answers, or measured by a metric."""
    matched = matching_gold(predicted, example.answers)
    return RowRecord(
        question=example.question,
        gold=example.answer if matched is None else matched,
        predicted=predicted,
        correct=(matched is not None) if metric is None else metric >= RIGHT_FROM,
        reasoning=reasoning,
        cut_off=cut_off,
        metric=metric,
    )


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_none(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if value is not None
    }
