"""Reasonings that were right and wrong on the same row, which the reasoning's gradient sets apart.

Stored ones are the rollouts of prompts that were scored to the end, and cost nothing more; others
are drawn for a step. What may be said of the gradient of either stands in docs/gradients.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from greater_fast.config import Config
from greater_fast.engine import Engine, Rollout, RolloutRequest
from greater_fast.examples.layout import Layouts
from greater_fast.search.answer import behind_reasoning
from greater_fast.search.nouns import Position


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What a model wrote on a row, and whether its answer then was right.

    `end_id` is the id that ended it, None where the token limit cut it.
    """

    ids: tuple[int, ...]
    is_right: bool
    end_id: int | None

    @classmethod
    def of(cls, rollout: Rollout) -> Reasoning:
        """That of a rollout."""
        return cls(rollout.reasoning_ids, not rollout.is_wrong, rollout.end_id)

    @property
    def written_ids(self) -> tuple[int, ...]:
        """The ids that the model chose, the end id included, where no stop text ended them."""
        return self.ids if self.end_id is None else (*self.ids, self.end_id)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `asdict` would copy id by id, a quarter of a second each step."""
        return {"ids": self.ids, "is_right": self.is_right, "end_id": self.end_id}


def draw_reasonings(
    engine: Engine, layouts: Layouts, position: Position, config: Config
) -> list[list[Reasoning]]:
    """`num_reasonings` samples of each row, from f(. | head p tail) at temperature 1.

    Prompt p is the position's. The samples are a function of the seed, the step and the row. Where
    answers are measured, theirs are sampled with them.
    """
    num_rows = len(layouts)
    requests = [
        RolloutRequest(
            prompt_ids=layouts.context_ids(row, position.prompt_ids),
            max_new_tokens=config.max_new_tokens,
            end_ids=engine.lm.end_ids | layouts.end_ids,
            stop=layouts.stop,
            **behind_reasoning(layouts, row, config),
            group=draw,
            # Keys up to the number of rows are those of text that is sampled in selection.
            sample_key=(position.step * config.num_reasonings + draw + 1) * num_rows + row,
            is_draw=True,
        )
        for draw in range(config.num_reasonings)
        for row in range(num_rows)
    ]
    found = [Reasoning.of(rollout) for rollout in engine.run(requests) if rollout is not None]
    return [found[row::num_rows] for row in range(num_rows)]


def distinct(reasonings: Iterable[Reasoning]) -> list[Reasoning]:
    """Of reasonings with the same ids and the same end, the first."""
    first: dict[tuple[int, ...], Reasoning] = {}
    for reasoning in reasonings:
        first.setdefault(reasoning.written_ids, reasoning)
    return list(first.values())


def advantages(reasonings: Sequence[Reasoning]) -> list[float]:
    """Each reasoning's reward, 0 or 1, less the mean reward of the others of its row.

    So the baseline of a draw does not depend on it, and takes nothing from the gradient's mean. All
    are 0 where one outcome is all there is.
    """
    num_right, num_others = sum(r.is_right for r in reasonings), len(reasonings) - 1
    if num_right in (0, len(reasonings)):
        return [0.0] * len(reasonings)
    return [r.is_right - (num_right - r.is_right) / num_others for r in reasonings]


@dataclass(slots=True)
class ReasoningStore:
    """Reasonings of each row, oldest first: of each outcome the newest few that differ."""

    rows: list[list[Reasoning]] = field(default_factory=list)

    def add(self, rollouts: Sequence[Rollout], number: int) -> None:
        """Take in the rollouts of one prompt on all rows; keep `number` of each outcome.

        A reasoning that is there already becomes the newest, with its outcome of now.
        """
        self.rows += [[] for _ in rollouts[len(self.rows) :]]
        for row, rollout in enumerate(rollouts):
            new = Reasoning.of(rollout)
            kept = [r for r in self.rows[row] if r.written_ids != new.written_ids] + [new]
            alike = [r for r in kept if r.is_right == new.is_right]
            self.rows[row] = [r for r in kept if r not in alike[:-number]]

    def chosen(self, rollouts: Sequence[Rollout], number: int) -> list[list[Reasoning]]:
        """At most `number` reasonings of each row: that of the rollouts first, then by turns.

        The turns are one with the other outcome, one with the same, the newest first.
        """
        return [
            _by_turns(Reasoning.of(rollout), self.rows[row] if self.rows else (), number)
            for row, rollout in enumerate(rollouts)
        ]

    def to_list(self) -> list[list[dict[str, Any]]]:
        """Plain values for JSON."""
        return [[reasoning.to_dict() for reasoning in row] for row in self.rows]

    @classmethod
    def from_list(cls, rows: Sequence[Sequence[dict[str, Any]]]) -> ReasoningStore:
        """The store that `to_list` wrote."""
        return cls(
            [
                [Reasoning(**{**values, "ids": tuple(values["ids"])}) for values in row]
                for row in rows
            ]
        )


def _by_turns(own: Reasoning, stored: Sequence[Reasoning], number: int) -> list[Reasoning]:
    others = [r for r in reversed(stored) if r.written_ids != own.written_ids]
    turns = zip_longest(
        (r for r in others if r.is_right != own.is_right),
        (r for r in others if r.is_right == own.is_right),
    )
    return [own, *(r for turn in turns for r in turn if r is not None)][:number]
