"""Rollouts without the C++ engine: transformers' `generate`, in batches as the model takes them.

Scoring is one more forward pass over the whole sequences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TypeVar

import torch

from greater_fast.engine import Layers, OnFinished, Rollout, RolloutRequest
from greater_fast.gradients import packing_trial
from greater_fast.model.attention.interface import rotates_by_length
from greater_fast.model.byte_sizes import is_out_of_memory
from greater_fast.model.exclusive import exclusive
from greater_fast.model.lm import LM
from greater_fast.model.own_layers import own_layers
from greater_fast.model.padding import num_tokens
from greater_fast.model.parallel.lockstep import check_alone
from greater_fast.ranks import ALONE
from greater_fast.rollouts.generation import (
    LogitsProcessor,
    NotFiniteError,
    Until,
    Written,
    choose_way,
    generate,
)
from greater_fast.rollouts.outcome import measured
from greater_fast.rollouts.sampled_rows import not_finite
from greater_fast.rollouts.sampling import check_draws, decoding_of, make_sampler, sample_keys

Row = TypeVar("Row")
Found = TypeVar("Found")


class PlainRolloutEngine:
    """The second implementation of `Engine`: slower, for any model, and compared with in tests.

    Batches hold one group's requests, in their order: what a prompt is worth on given rows does not
    depend on what else is asked for. `way` says which rows of a batch are generated together.

    Raises:
        ValueError: the model's rows cannot be generated rightly; says what was found.
    """

    ranks = ALONE

    def __init__(  # noqa: PLR0913 (settings of one object, all but the first by name)
        self,
        lm: LM,
        batch_size: int = 32,
        temperature: float = 1.0,
        *,
        sampling_temperature: float = 0.0,
        draws: bool = False,
        seed: int = 0,
        kernels: str = "auto",
        longest_sequence: int | None = None,
    ) -> None:
        self.lm, self._longest = lm, longest_sequence
        self.prefix_capacity = 0
        self.max_sequence_tokens = longest_sequence if rotates_by_length(lm) else None
        self.way = choose_way(lm, longest_sequence)
        self.batch_size = batch_size
        self.temperature = temperature
        self._kernels = kernels
        self._sampler = make_sampler(sampling_temperature, seed, draws=draws)
        self.decoding = decoding_of(temperature, sampling_temperature, seed, draws=draws)
        self._samples_all = sampling_temperature > 0
        self.num_generated_tokens = 0
        self.num_forward_tokens = 0

    @cached_property
    def can_pack(self) -> bool:
        """Whether the model runs over packed suffixes."""
        return packing_trial.can_pack(self.lm, self._longest, self._kernels, self.layers)

    @cached_property
    def layers(self) -> Layers:
        """What of the model's layers can run by our kernels."""
        return own_layers(self.lm, self._kernels)

    @exclusive
    def run(
        self, requests: Sequence[RolloutRequest], on_finished: OnFinished | None = None
    ) -> list[Rollout | None]:
        """Rollouts in the order of the requests; None where `on_finished` dropped the group.

        A batch that does not fit the memory is halved, and so are those that follow.

        Raises:
            ValueError: requests with different limits, ends or `is_draw`; draws without noise.
            MemoryError: the memory does not hold one row.
        """
        kinds = {(_until(r), _until_answered(r), r.is_draw) for r in requests}
        if len(kinds) > 1:
            raise ValueError(
                "requests of one call must share their limits, end_ids and is_draw, and stop texts"
            )
        check_draws(requests, self._sampler)
        rollouts: list[Rollout | None] = [None] * len(requests)
        dropped: set[int] = set()
        for group in dict.fromkeys(r.group for r in requests):
            numbers = [i for i, r in enumerate(requests) if r.group == group]
            while numbers and group not in dropped:
                found = self._first([requests[i] for i in numbers], self._run_batch)
                batch, numbers = numbers[: len(found)], numbers[len(found) :]
                for number, made in zip(batch, found, strict=True):
                    rollouts[number] = rollout = measured(requests[number], made, self.lm.ranks)
                    dropped.update(on_finished(number, rollout) if on_finished else ())
        return rollouts

    @exclusive
    def next_logits(self, contexts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits [C, V] of the token after each context."""
        logits: list[torch.Tensor] = []
        while len(logits) < len(contexts):
            logits += self._first(contexts[len(logits) :], self._next_logits)
        return torch.stack(logits)

    def store(self, contexts: Sequence[Sequence[int]]) -> None:
        """Nothing: no prefix is kept."""

    def prefix_kv(self, ids: Sequence[int]) -> None:
        """No prefix: nothing is stored between calls."""

    def _first(
        self, rows: Sequence[Row], work: Callable[[Sequence[Row]], list[Found]]
    ) -> list[Found]:
        """What work finds for the first rows: a batch of them, or as many as the memory holds.

        Raises:
            MemoryError: it does not hold one.
        """
        batch = rows[: self.batch_size]
        try:
            return work(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            check_alone(self.lm.ranks, error)
            if len(batch) == 1:
                raise MemoryError(
                    f"the reasoning of one row does not fit the memory of {self.lm.device}: lower "
                    "max_new_tokens, or use a smaller model"
                ) from error
        torch.cuda.empty_cache()
        self.batch_size = len(batch) // 2
        return self._first(batch, work)

    @torch.inference_mode()
    def _next_logits(self, batch: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        self.num_forward_tokens += num_tokens(self.lm, [len(ids) for ids in batch])
        hidden = self.lm.hidden_at(batch, [[len(ids) - 1] for ids in batch])
        return [self.lm.logits(state[None])[0] for state in hidden]

    def _run_batch(self, batch: Sequence[RolloutRequest]) -> list[Rollout]:
        written = self._generate(batch, [r.prompt_ids for r in batch], _until(batch[0]))
        reasonings = [text.ids for text in written]
        rollouts = [
            replace(rollout, end_id=text.end_id, stop_text=text.stop_text)
            for rollout, text in zip(self._score(batch, reasonings), written, strict=True)
        ]
        if batch[0].max_answer_tokens == 0:
            return rollouts
        contexts = [
            (*r.prompt_ids, *reasoning, *r.target_ids)
            for r, reasoning in zip(batch, reasonings, strict=True)
        ]
        answers = self._generate(batch, contexts, _until_answered(batch[0]))
        return [
            replace(rollout, answer_ids=answer.ids)
            for rollout, answer in zip(rollouts, answers, strict=True)
        ]

    def _generate(
        self, batch: Sequence[RolloutRequest], contexts: Sequence[tuple[int, ...]], until: Until
    ) -> list[Written]:
        """What is written behind each context."""
        if until.limit == 0:
            return [Written((), 0)] * len(contexts)
        texts: dict[int, Written] = {}
        for group in self.way.groups([len(ids) for ids in contexts]):
            own, own_contexts = [batch[n] for n in group], [contexts[n] for n in group]
            processors = self._noise(own, own_contexts)
            try:
                new = generate(self.lm, own_contexts, until, self.way, processors)
            except NotFiniteError as error:
                raise not_finite(own[error.row]) from error
            width, num_new = max(map(len, own_contexts)), len(new[0])
            once = width + num_new - 1
            again = 0 if self.way.cached else (num_new - 1) * (2 * width + num_new - 2) // 2
            self.num_forward_tokens += len(group) * (once + again)
            for number, tokens in zip(group, new, strict=True):
                texts[number] = until.ended(tokens)
                self.num_generated_tokens += texts[number].num_tokens
        return [texts[number] for number in range(len(contexts))]

    def _noise(
        self, batch: Sequence[RolloutRequest], contexts: Sequence[tuple[int, ...]]
    ) -> list[LogitsProcessor]:
        """What makes generate's greedy choice a sample."""
        sampler, device = self._sampler, self.lm.device
        if sampler is None or not (self._samples_all or batch[0].is_draw):
            return []
        width = max(map(len, contexts))
        keys = sample_keys([r.sample_key for r in batch], device)
        starts = [len(c) - len(r.prompt_ids) for c, r in zip(contexts, batch, strict=True)]
        first_places = torch.tensor(starts, device=device)

        def add_noise(input_ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            return sampler.perturbed(logits, keys, first_places + input_ids.shape[1] - width)

        return [add_noise]

    def _score(
        self, batch: Sequence[RolloutRequest], reasonings: Sequence[tuple[int, ...]]
    ) -> list[Rollout]:
        """Rollouts with the log-probabilities that were asked for, from one forward pass."""
        sequences, prompts, answers = [], [], []
        for request, reasoning in zip(batch, reasonings, strict=True):
            ids = (*request.prompt_ids, *reasoning, *request.target_ids)
            sequences.append(ids)
            prompts.append(range(*request.prompt_span))
            answers.append(range(len(ids) - request.num_scored, len(ids)))
        if not any(map(len, (*prompts, *answers))):
            return [Rollout(reasoning) for reasoning in reasonings]
        # The state before a token predicts it.
        rows = [[i - 1 for i in (*p, *a)] for p, a in zip(prompts, answers, strict=True)]
        hidden = self.lm.hidden_at(sequences, rows)
        self.num_forward_tokens += num_tokens(self.lm, [len(ids) for ids in sequences])
        rollouts, first = [], 0
        for ids, prompt, answer, reasoning in zip(
            sequences, prompts, answers, reasonings, strict=True
        ):
            middle, last = first + len(prompt), first + len(prompt) + len(answer)
            prompt_logprobs, _ = self._logprobs(hidden[first:middle], ids, prompt, 1.0)
            logprobs, hits = self._logprobs(hidden[middle:last], ids, answer, self.temperature)
            nll = -math.fsum(prompt_logprobs) / max(len(prompt), 1)
            rollouts.append(Rollout(reasoning, tuple(logprobs), tuple(map(bool, hits)), nll))
            first = last
        return rollouts

    def _logprobs(
        self, hidden: torch.Tensor, ids: Sequence[int], span: range, temperature: float
    ) -> tuple[list[float], list[bool]]:
        """Log-probabilities and argmax hits of the tokens of `span`; `hidden` [len(span), D]."""
        if not span:
            return [], []
        targets = torch.tensor(ids[span.start : span.stop], device=self.lm.device)
        with torch.inference_mode():
            values, hits = self.lm.logprobs(hidden, targets, temperature, self._kernels)
        return values.tolist(), hits.tolist()


def _until(request: RolloutRequest) -> Until:
    """What ends a request's reasoning."""
    return Until(request.max_new_tokens, request.end_ids, request.stop)


def _until_answered(request: RolloutRequest) -> Until:
    """What ends its generated answer."""
    return Until(request.max_answer_tokens, request.end_ids, request.answer_stop)
