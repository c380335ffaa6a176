"""The shared nouns of the loop: what one stage hands to the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from greater_fast.config import Config
from greater_fast.engine import Rollout

ALL_DONE, UNCHANGED = "all steps done", "a whole sweep without a change"  # why a search ends
TIE = 1e-6  # objectives closer than this are equal
# Fields of `Step` that say what it cost: these differ from run to run, as timing does.
WORK_FIELDS = ("num_generated_tokens", "seconds", "peak_memory_bytes")


@dataclass(frozen=True, slots=True)
class Position:
    """The place in the incumbent prompt that a step tries to change; at its end, to grow by one."""

    step: int
    index: int
    prompt_ids: tuple[int, ...]

    @property
    def grows(self) -> bool:
        """Whether the place is one past the prompt's end."""
        return self.index == len(self.prompt_ids)

    @property
    def incumbent_id(self) -> int | None:
        """The token now at this place; None where the prompt would grow."""
        return None if self.grows else self.prompt_ids[self.index]

    def with_token(self, token_id: int) -> tuple[int, ...]:
        """The prompt with a token in this place."""
        return (*self.prompt_ids[: self.index], token_id, *self.prompt_ids[self.index + 1 :])

    def allowed(self, mask: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Ids [V] bool of a mask that may be new here: no stutter, not what is here now."""
        mask = self.without_stutter(mask, words)
        if self.incumbent_id is not None:
            mask[self.incumbent_id] = False
        return mask

    def without_stutter(self, mask: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """A mask of ids [V] less the words before and behind this place; `words` numbers them."""
        beside = (*self.prompt_ids[: self.index][-1:], *self.prompt_ids[self.index + 1 :][:1])
        return mask & ~torch.isin(words, words[list(beside)])


@dataclass(frozen=True, slots=True)
class Candidates:
    """Replacement tokens [K], sorted by id, with their mean log-probability over the drawn rows."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top_k: int

    @property
    def likeliest(self) -> int:
        """The most likely candidate, of equals the one with the lower id."""
        return max(zip(self.logprobs, (-i for i in self.ids), strict=True))[1] * -1


@dataclass(frozen=True, slots=True)
class Objective:
    """What a prompt is judged by: means over N rows of terms that are never negative.

    Where answers were measured, `num_wrong` is the sum of 1 - metric; no gold answer was scored, so
    that `answer_loss` is 0.
    """

    num_wrong: float
    num_rows: int
    prompt_nll: float
    answer_loss: float

    @property
    def error_rate(self) -> float:
        """Share of the rows that are wrong; with a metric, the mean of 1 - metric."""
        return self.num_wrong / self.num_rows

    def value(self, config: Config) -> float:
        """The figure to minimise, under either objective of GREATER (step 3)."""
        if config.objective == "error":
            return self.error_rate + config.error_fluency_weight * self.prompt_nll
        return self.answer_loss + config.fluency_weight * self.prompt_nll


@dataclass(frozen=True, slots=True)
class Scored:
    """A prompt with its rollouts on all rows and the objective they give."""

    prompt_ids: tuple[int, ...]
    objective: Objective
    rollouts: tuple[Rollout, ...]


def objective_of(rollouts: Sequence[Rollout], num_rows: int) -> Objective:
    """The objective from some of N rows: a lower bound of that of all, exact when all are in.

    A loss that rounding put under 0 is 0, or more rows could lower the bound. Wrong rows are whole
    numbers; other sums are rounded once, so that the order of the rows is no matter.
    """
    are_measured = any(r.metric is not None for r in rollouts)
    return Objective(
        num_wrong=(math.fsum if are_measured else sum)(r.error for r in rollouts),
        num_rows=num_rows,
        prompt_nll=math.fsum(max(r.prompt_nll, 0.0) for r in rollouts) / num_rows,
        answer_loss=math.fsum(max(r.answer_loss, 0.0) for r in rollouts) / num_rows,
    )


@dataclass(frozen=True, slots=True)
class Trial:
    """One shortlisted candidate of a step; its `score` is None where it was drawn at random.

    `objective` and `error_rate` are None where it was given up: worse than the best value that was
    known when the step began. So they are where a race dropped it, after so many rows.
    """

    token_id: int
    token: str
    score: float | None
    objective: float | None
    error_rate: float | None
    dropped_after: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One finished step, as it is logged: no field is a bound or a guess.

    `num_contrasted` counts the training rows with a right and a wrong reasoning, of which a
    gradient of reasonings was made: of 0, the answer's stood alone; None where none was asked for.

    All fields but `WORK_FIELDS` follow from settings, rows and model, and are the same each time.
    """

    step: int
    index: int
    grows: bool
    prompt: str
    prompt_ids: tuple[int, ...]
    objective: float
    error_rate: float
    candidate_ids: tuple[int, ...]
    candidate_top_k: int
    trials: tuple[Trial, ...]
    changed: bool
    num_contrasted: int | None = None
    num_generated_tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Step:
        """The step that `to_dict` wrote."""
        ids = {name: tuple(values[name]) for name in ("prompt_ids", "candidate_ids")}
        return cls(**{**values, **ids, "trials": tuple(Trial(**t) for t in values["trials"])})
