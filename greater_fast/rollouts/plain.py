"""Rollouts without the C++ engine: transformers' `generate` in left-padded batches.

Scoring is one more forward pass over the whole sequences.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from greater_fast.engine import OnFinished, Rollout, RolloutRequest
from greater_fast.gradients import suffix_forward
from greater_fast.model.byte_sizes import is_out_of_memory
from greater_fast.model.cpu.layers import CPULayers
from greater_fast.model.exclusive import exclusive
from greater_fast.model.lm import LM
from greater_fast.rollouts.sampling import make_sampler, sample_keys

LogitsProcessor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class PlainRolloutEngine:
    """The second implementation of `Engine`: slower, for any model, and compared with in tests.

    Batches hold one group's requests, in their order: what a prompt is worth on given rows does not
    depend on what else is asked for.
    """

    def __init__(
        self,
        lm: LM,
        batch_size: int = 32,
        temperature: float = 1.0,
        *,
        sampling_temperature: float = 0.0,
        seed: int = 0,
        kernels: str = "auto",
    ) -> None:
        self.lm = lm
        self.batch_size = batch_size
        self.temperature = temperature
        self._kernels = kernels
        self._sampler = make_sampler(sampling_temperature, seed)
        self.num_generated_tokens = 0
        self.num_forward_tokens = 0

    @cached_property
    def can_pack(self) -> bool:
        """Whether the model runs over packed suffixes."""
        return suffix_forward.why_not(self.lm) is None

    @cached_property
    def layers(self) -> CPULayers:
        """What of the model's layers can run by csrc."""
        return CPULayers(self.lm)

    @exclusive
    def run(
        self, requests: Sequence[RolloutRequest], on_finished: OnFinished | None = None
    ) -> list[Rollout | None]:
        """Rollouts in the order of the requests; None where `on_finished` dropped the group.

        A batch that does not fit the memory is halved, and so are those that follow.

        Raises:
            ValueError: requests with different limits or `end_ids`.
            MemoryError: the memory does not hold one row.
        """
        if len({(r.max_new_tokens, r.max_answer_tokens, r.end_ids) for r in requests}) > 1:
            raise ValueError("requests of one call must share their limits and end_ids")
        rollouts: list[Rollout | None] = [None] * len(requests)
        dropped: set[int] = set()
        for group in dict.fromkeys(r.group for r in requests):
            numbers = [i for i, r in enumerate(requests) if r.group == group]
            while numbers and group not in dropped:
                found = self._run_first([requests[i] for i in numbers[: self.batch_size]])
                batch, numbers = numbers[: len(found)], numbers[len(found) :]
                for number, rollout in zip(batch, found, strict=True):
                    rollouts[number] = rollout
                    dropped.update(on_finished(number, rollout) if on_finished else ())
        return [
            None if request.group in dropped and rollout is None else rollout
            for request, rollout in zip(requests, rollouts, strict=True)
        ]

    @exclusive
    def next_logits(self, contexts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits [C, V] of the token after each context."""
        logits = []
        for start in range(0, len(contexts), self.batch_size):
            batch = contexts[start : start + self.batch_size]
            self.num_forward_tokens += len(batch) * max(map(len, batch))
            with torch.inference_mode():
                hidden = self.lm.hidden_at(batch, [[len(ids) - 1] for ids in batch])
                logits += [self.lm.logits(state[None]) for state in hidden]
        return torch.cat(logits)

    def prefix_kv(self, ids: Sequence[int]) -> None:
        """No prefix: nothing is stored between calls."""

    def _run_first(self, batch: Sequence[RolloutRequest]) -> list[Rollout]:
        """Rollouts of a batch, or of as many of its first rows as the memory holds.

        Raises:
            MemoryError: it does not hold one.
        """
        try:
            return self._run_batch(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise MemoryError(
                    f"the reasoning of one row does not fit the memory of {self.lm.device}: lower "
                    "max_new_tokens, or use a smaller model"
                ) from error
        torch.cuda.empty_cache()
        self.batch_size = len(batch) // 2
        return self._run_first(batch[: self.batch_size])

    def _run_batch(self, batch: Sequence[RolloutRequest]) -> list[Rollout]:
        reasonings = self._generate(batch, [r.prompt_ids for r in batch], batch[0].max_new_tokens)
        rollouts = self._score(batch, reasonings)
        if batch[0].max_answer_tokens == 0:
            return rollouts
        contexts = [
            (*r.prompt_ids, *reasoning, *r.target_ids)
            for r, reasoning in zip(batch, reasonings, strict=True)
        ]
        answers = self._generate(batch, contexts, batch[0].max_answer_tokens)
        return [
            replace(rollout, answer_ids=answer)
            for rollout, answer in zip(rollouts, answers, strict=True)
        ]

    def _generate(
        self, batch: Sequence[RolloutRequest], contexts: Sequence[tuple[int, ...]], limit: int
    ) -> list[tuple[int, ...]]:
        """Continuations of at most `limit` tokens, without their end id."""
        from transformers import GenerationConfig

        if limit == 0:
            return [()] * len(contexts)
        width = max(map(len, contexts))
        end_ids = batch[0].end_ids
        pad = min(end_ids)
        ids = [[*[pad] * (width - len(c)), *c] for c in contexts]
        mask = [[0] * (width - len(c)) + [1] * len(c) for c in contexts]
        settings = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=limit,
            eos_token_id=sorted(end_ids),
            pad_token_id=pad,
        )
        with _plain_generation(self.lm.model), torch.inference_mode():
            output = self.lm.model.generate(
                input_ids=torch.tensor(ids, device=self.lm.device),
                attention_mask=torch.tensor(mask, device=self.lm.device),
                generation_config=settings,
                logits_processor=self._noise(batch, contexts),
            )
        new = output[:, width:].tolist()
        self.num_forward_tokens += len(contexts) * (width + len(new[0]) - 1)
        texts = []
        for tokens in new:
            length = next((i for i, t in enumerate(tokens) if t in end_ids), None)
            self.num_generated_tokens += len(tokens) if length is None else length + 1
            texts.append(tuple(tokens[:length]))
        return texts

    def _noise(
        self, batch: Sequence[RolloutRequest], contexts: Sequence[tuple[int, ...]]
    ) -> list[LogitsProcessor]:
        """What makes generate's greedy choice a sample."""
        sampler, device = self._sampler, self.lm.device
        if sampler is None:
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
        self.num_forward_tokens += len(batch) * max(map(len, sequences))
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


@contextlib.contextmanager
def _plain_generation(model: Any) -> Iterator[None]:
    """Keep the model's own generation settings (sampling, penalties) out of greedy decoding."""
    from transformers import GenerationConfig

    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
