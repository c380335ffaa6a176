"""How much a run does at most: counted, before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from greater_fast.config import Config
from greater_fast.examples.layout import Layouts
from greater_fast.search.answer import measures_answers


def num_finalists(num_scored: int, config: Config) -> int:
    """Prompts compared on the development rows: the best of those scored, and the initial one."""
    return num_scored if num_scored <= config.num_finalists else config.num_finalists + 1


def gradients_of_a_row(config: Config) -> int:
    """How often a row goes forward and back in a step, at most: once, or for each reasoning."""
    if not config.asks_for_reasonings:
        return int(config.takes_gradients)
    return config.num_reasonings + (config.gradient == "both")


def samples_of_a_row(config: Config) -> int:
    """Rollouts of a row in a step that are for the gradient alone."""
    return config.num_reasonings if config.draws_reasonings else 0


@dataclass(frozen=True, slots=True)
class Work:
    """Upper bounds: of a run with all its steps, where no candidate and no text ends early.

    `searched_rows` are rollouts of training rows, `gradient_rows` those that go forward and back;
    `evaluated_rows` end in an answer of the model's. `written_tokens` are those of all reasoning
    and answers.
    """

    num_steps: int
    searched_rows: int
    gradient_rows: int
    evaluated_rows: int
    written_tokens: int

    @classmethod
    def of(cls, layouts: Mapping[str, Layouts], config: Config) -> Work:
        """The work of a run on these rows."""
        num_train, num_steps = len(layouts["train"]), config.steps
        num_prompts = 1 + num_steps * config.shortlist_size
        num_tests = min(2, num_prompts) * len(layouts["test"]) if "test" in layouts else 0
        finals = num_finalists(num_prompts, config) * len(layouts["dev"])
        searched = (num_prompts + num_steps * samples_of_a_row(config)) * num_train
        measures = measures_answers(layouts["train"], config)  # then training rows are done once
        evaluated = finals + (0 if measures else num_train) + num_tests
        answer = max(rows.answer_limit for rows in layouts.values())
        answers = evaluated + (searched if measures else 0)
        return cls(
            num_steps=num_steps,
            searched_rows=searched,
            gradient_rows=num_steps * num_train * gradients_of_a_row(config),
            evaluated_rows=evaluated,
            written_tokens=(searched + evaluated) * config.max_new_tokens + answers * answer,
        )

    def of_models(self, number: int) -> Work:
        """The work where so many models are searched at once: each does all but the choosing."""
        counts = {f.name: number * getattr(self, f.name) for f in fields(self)}
        return replace(self, **{**counts, "num_steps": self.num_steps})

    def describe(self) -> str:
        """The work in one line."""
        return (
            f"work at most: {self.num_steps} steps with {self.searched_rows:,} rollouts and the "
            f"gradients of {self.gradient_rows:,} rows, {self.evaluated_rows:,} rows evaluated, "
            f"{self.written_tokens:,} tokens written"
        )
