"""What stages and gradients know of an engine: what they ask of it and what they get."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import torch

from greater_fast.model.kv_cache import PrefixKV
from greater_fast.model.lm import LM
from greater_fast.model.text.stop_texts import StopTexts
from greater_fast.ranks import Ranks

# The ids of a generated answer -> what it is worth, in [0, 1]
AnswerMeasure = Callable[[tuple[int, ...]], float]
RIGHT_FROM = 0.5  # a row counts as right from this value of a metric on


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """What to generate, and what to score behind it.

    `prompt_ids` is all text before the reasoning, `prompt_span` the part of it whose NLL is wanted
    as [start, stop); `target_ids` follow the reasoning, and their last `num_scored` are scored;
    `max_answer_tokens` are then generated, and `measure`, if any, is called with them: once, on the
    rank that runs the row. `draft_ids` are a guess at the reasoning: they change its cost alone.
    Requests of a `group` can be dropped together. Sampled text with the same `sample_key` (the
    row's number) meets the same noise. A draw is sampled at temperature 1 by an engine that was
    made for it, whether or not it samples everything. `model` is the number of the one that is
    asked, among several; an engine has one, and does not look. `stop` ends a reasoning beside the
    end ids, `answer_stop` a generated answer.
    """

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    end_ids: frozenset[int]
    prompt_span: tuple[int, int] = (0, 0)
    target_ids: tuple[int, ...] = ()
    num_scored: int = 0
    max_answer_tokens: int = 0
    draft_ids: tuple[int, ...] = ()
    group: int = 0
    sample_key: int = 0
    is_draw: bool = False
    model: int = 0
    # Each rank has its own.
    measure: AnswerMeasure | None = field(default=None, compare=False)
    stop: StopTexts | None = field(default=None, compare=False)
    answer_stop: StopTexts | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One row's reasoning, and what the model thinks of prompt and gold answer around it.

    `end_id` ended the reasoning and is no part of it; so is `stop_text`, and the reasoning's ids
    spell what was written before it. Both are None where the token limit ended the reasoning.
    `answer_ids` were generated behind the extractor, where that was asked for, and `metric` is what
    they were measured to be worth. `answer_logprobs` are log-softmax(logits / temperature) of the
    gold answer's tokens, `answer_hits` whether each is the argmax; `prompt_nll` is the mean -log p
    of the prompt's tokens, in nats.
    """

    reasoning_ids: tuple[int, ...]
    answer_logprobs: tuple[float, ...] = ()
    answer_hits: tuple[bool, ...] = ()
    prompt_nll: float = 0.0
    answer_ids: tuple[int, ...] = ()
    end_id: int | None = None
    metric: float | None = None
    stop_text: str | None = None

    @property
    def is_wrong(self) -> bool:
        """Whether any token of the gold answer is not the model's first choice.

        Where the answer was measured: whether its metric is under a half.
        """
        return not all(self.answer_hits) if self.metric is None else self.metric < RIGHT_FROM

    @property
    def error(self) -> float:
        """1 where the row is wrong, else 0; where the answer was measured, 1 less its metric."""
        return int(self.is_wrong) if self.metric is None else 1.0 - self.metric

    @property
    def answer_loss(self) -> float:
        """Mean cross-entropy of the gold answer's tokens at the temperature of the loss.

        0 where none was scored.
        """
        return -math.fsum(self.answer_logprobs) / max(len(self.answer_logprobs), 1)

    def is_cut_off(self, max_new_tokens: int) -> bool:
        """Whether the token limit ended the reasoning, and neither an end id nor a stop text."""
        has_ended = self.end_id is not None or self.stop_text is not None
        return not has_ended and len(self.reasoning_ids) >= max_new_tokens

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `asdict` would copy id by id."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Rollout:
        """The rollout that `to_dict` wrote; what older ones did not know of has its default."""
        lists = ("reasoning_ids", "answer_logprobs", "answer_hits", "answer_ids")
        return cls(**{**values, **{name: tuple(values.get(name, ())) for name in lists}})


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the paged engine found out about itself on its device, and what its work took.

    `step_tokens` is M, and `step_ms` the milliseconds of a step of each size that was measured
    (none where M was given). `no_graph` says why steps are launched without a CUDA graph, where one
    was to be had. Counts are those since the engine was made.
    """

    attention: str  # csrc, triton or reference
    step_tokens: int
    step_ms: Mapping[int, float]
    batch_invariant: bool
    has_graph: bool
    graph_bytes: int
    no_graph: str | None
    steps: int
    drafted_tokens: int
    accepted_tokens: int
    preemptions: int


# Called with a request's number and its rollout; returns groups whose requests are dropped.
OnFinished = Callable[[int, Rollout], Collection[int]]


class Layers(Protocol):
    """What of a model's layers runs by our kernels in place of its own modules."""

    are_all_linears: bool  # every product of a matrix is among them
    note: str  # what was taken over, and what was not and why; empty where there is nothing to say

    def installed(self) -> AbstractContextManager[None]:
        """Within, the layers run by our kernels; a gradient reaches their inputs."""


class Engine(Protocol):
    """What the stages need: two implementations, the same results but for near-ties.

    With more `ranks` than one, each has an engine, and all call its methods in the same order.
    """

    lm: LM
    ranks: Ranks
    num_generated_tokens: int  # end ids included
    num_forward_tokens: int  # through the model, padding included

    @property
    def prefix_capacity(self) -> int:
        """Tokens of prefixes that `store` has room for at a time; 0 where none are kept."""

    @property
    def max_sequence_tokens(self) -> int | None:
        """Tokens of a sequence for which it was made, at most; None where none is too long."""

    @property
    def decoding(self) -> Mapping[str, Any]:
        """Temperatures, seed and draws that it was made with."""

    @property
    def can_pack(self) -> bool:
        """Whether the model runs over packed suffixes (else the gradient pads whole sequences)."""

    @property
    def layers(self) -> Layers:
        """What of the model's layers can run by our kernels; found once, as they are then."""

    def run(
        self, requests: Sequence[RolloutRequest], on_finished: OnFinished | None = None
    ) -> list[Rollout | None]:
        """Rollouts in the order of the requests; None where the group was dropped."""

    def next_logits(self, contexts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits [C, V] of the token after each context."""

    def store(self, contexts: Sequence[Sequence[int]]) -> None:
        """Compute what is not stored of the contexts, as far as there is room, for `prefix_kv`."""

    def prefix_kv(self, ids: Sequence[int]) -> PrefixKV | None:
        """Keys and values of the longest stored prefix of `ids`; sure until the next run."""
