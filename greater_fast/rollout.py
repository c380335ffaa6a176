"""Rollouts: greedy reasoning for many sequences, and the log-probabilities of what follows it.

This engine generates with transformers' `generate` in left-padded batches and scores with one more
forward pass. Batches are cut from the requests of one call, in their order: a rollout is a function
of that call alone, whatever ran before it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from greater_fast.lm import LM
from greater_fast.nouns import Rollout


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """What to generate, and what to score behind it.

    `prompt_ids` is all text before the reasoning, `prompt_span` the part of it whose NLL is wanted
    as [start, stop); `target_ids` follow the reasoning, and their last `num_scored` are scored.
    """

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    end_ids: frozenset[int]
    prompt_span: tuple[int, int] = (0, 0)
    target_ids: tuple[int, ...] = ()
    num_scored: int = 0


class RolloutEngine:
    """Runs rollout requests on one model.

    `num_generated_tokens` counts tokens up to and with the end id; `num_forward_tokens` all tokens
    that went through the model, padding included.
    """

    def __init__(self, lm: LM, batch_size: int = 32, temperature: float = 1.0) -> None:
        self.lm = lm
        self.batch_size = batch_size
        self.temperature = temperature
        self.num_generated_tokens = 0
        self.num_forward_tokens = 0

    def run(self, requests: Sequence[RolloutRequest]) -> list[Rollout]:
        """Rollouts in the order of the requests. All requests of a call share their limits.

        Raises:
            ValueError: requests with different `max_new_tokens` or `end_ids`.
        """
        if len({(r.max_new_tokens, r.end_ids) for r in requests}) > 1:
            raise ValueError("requests of one call must share max_new_tokens and end_ids")
        rollouts: list[Rollout] = []
        for start in range(0, len(requests), self.batch_size):
            batch = requests[start : start + self.batch_size]
            rollouts += self._score(batch, self._generate(batch))
        return rollouts

    def _generate(self, batch: Sequence[RolloutRequest]) -> list[tuple[int, ...]]:
        """Greedy continuations without their end id."""
        from transformers import GenerationConfig

        first = batch[0]
        width = max(len(r.prompt_ids) for r in batch)
        pad = min(first.end_ids)
        gaps = [width - len(r.prompt_ids) for r in batch]
        ids = [[*[pad] * gap, *r.prompt_ids] for gap, r in zip(gaps, batch, strict=True)]
        mask = [[0] * gap + [1] * (width - gap) for gap in gaps]
        settings = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=first.max_new_tokens,
            eos_token_id=sorted(first.end_ids),
            pad_token_id=pad,
        )
        with _plain_generation(self.lm.model), torch.inference_mode():
            output = self.lm.model.generate(
                input_ids=torch.tensor(ids, device=self.lm.device),
                attention_mask=torch.tensor(mask, device=self.lm.device),
                generation_config=settings,
            )
        new = output[:, width:].tolist()
        self.num_forward_tokens += len(batch) * (width + max(len(new[0]) - 1, 0))
        reasonings = []
        for tokens in new:
            length = next((i for i, t in enumerate(tokens) if t in first.end_ids), None)
            self.num_generated_tokens += len(tokens) if length is None else length + 1
            reasonings.append(tuple(tokens[:length]))
        return reasonings

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
            values, hits = self.lm.logprobs(hidden, targets, temperature)
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
