"""A program's rows to search on and to judge on, disjoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from greater_fast.config import Config
from greater_fast.examples.data import Example
from greater_fast.examples.splits import make_splits, question_key
from greater_fast.front_ends.dspy.rows import Reply


@dataclass(frozen=True, slots=True)
class RowSet:
    """Rows of DSPy's, and the same as ours."""

    rows: list[Any]
    examples: list[Example]

    @classmethod
    def read(cls, reply: Reply, rows: Sequence[Any], name: str) -> RowSet:
        """Rows with what they are to us."""
        return cls(
            list(rows), [reply.example(row, f"row {n} of {name}") for n, row in enumerate(rows)]
        )

    def of(self, examples: Sequence[Example]) -> RowSet:
        """Some of them."""
        rows = {own.source: row for own, row in zip(self.examples, self.rows, strict=True)}
        return RowSet([rows[example.source] for example in examples], list(examples))


def split(
    reply: Reply, trainset: Sequence[Any], valset: Sequence[Any] | None, config: Config
) -> tuple[RowSet, RowSet, list[str]]:
    """Rows to search on and to judge on, disjoint, a valset whole; what became of them.

    Raises:
        ValueError: too few rows are left to search on, or none to judge on.
    """
    train = RowSet.read(reply, trainset, "trainset")
    val = RowSet.read(reply, valset or (), "valset")
    judged_on = {question_key(example.question) for example in val.examples}
    left = [each for each in train.examples if question_key(each.question) not in judged_on]
    num_shared = len(train.examples) - len(left)
    if num_shared and len(left) < 2:
        raise ValueError(
            f"trainset: {num_shared} of its {len(train.examples)} rows are in the valset, expected "
            "at least 2 of its own: leave valset out to have its rows drawn, disjoint"
        )
    splits = make_splits(
        left,
        val.examples or None,
        num_train=config.num_train,
        num_dev=len(val.examples) or config.num_dev,
        seed=config.seed,
    )
    searched, notes = train.of(splits.train), list(splits.report)
    if not val.examples:
        return searched, train.of(splits.dev), notes
    shared = f", {num_shared} more are in the valset" if num_shared else ""
    return searched, val, [notes[0] + shared, f"val: all {len(val.rows)} rows used"]
