"""Rollouts: reasoning for many sequences in one continuous batch, and what follows it.

The scheduler (csrc/) says which tokens of which sequences go through the model next; Python runs
the model on them and hands back argmax ids and log-probabilities. A sequence passes through
prefill, decoding and scoring without waiting for any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from greater_fast import suffix_forward
from greater_fast.config import KV_CACHE_BYTES
from greater_fast.cpu_linear import CPULinears
from greater_fast.extension import Scheduler
from greater_fast.kv_cache import BLOCK_SIZE, KVCache, PrefixKV, block_bytes
from greater_fast.lm import LM, LOGIT_FLOATS
from greater_fast.nouns import Rollout
from greater_fast.paged import Plan, forward, why_not
from greater_fast.sampling import make_sampler, sample_keys

# Under 12 rows a row's bits change with their number (measured: fp32 on a CPU); 16 is safe.
MIN_ROWS = 16
_DEFAULT_TOKENS = 256

# Called with a request's number and its rollout; returns groups whose requests are dropped.
OnFinished = Callable[[int, Rollout], Collection[int]]


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """What to generate, and what to score behind it.

    `prompt_ids` is all text before the reasoning, `prompt_span` the part of it whose NLL is wanted
    as [start, stop); `target_ids` follow the reasoning, and their last `num_scored` are scored;
    `max_answer_tokens` are then generated. `draft_ids` are a guess at the reasoning: they change
    its cost alone. Requests of a `group` can be dropped together. Sampled text with the same
    `sample_key` (the row's number) meets the same noise.
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


class Engine(Protocol):
    """What the stages need: two implementations, the same results but for near-ties."""

    lm: LM
    num_generated_tokens: int  # end ids included
    num_forward_tokens: int  # through the model, padding included

    @property
    def can_pack(self) -> bool:
        """Whether the model runs over packed suffixes (else the gradient pads whole sequences)."""

    def run(
        self, requests: Sequence[RolloutRequest], on_finished: OnFinished | None = None
    ) -> list[Rollout | None]:
        """Rollouts in the order of the requests; None where the group was dropped."""

    def next_logits(self, contexts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits [C, V] of the token after each context."""

    def prefix_kv(self, ids: Sequence[int]) -> PrefixKV | None:
        """Keys and values of the longest stored prefix of `ids`; sure until the next run."""


class RolloutEngine:
    """The continuous batch. Prefixes are computed once and kept between calls.

    Args:
        lm: the model.
        temperature: divides the logits of scored tokens.
        sampling_temperature: of generated tokens; 0 decodes greedily. Scores and hits stay those of
            the model without noise.
        seed: of the sampling.
        kv_cache_bytes: memory of the K/V pool.
        max_tokens: tokens of a step (M).
        draft_tokens: drafts fill a step up to this many tokens; 0 turns them off.
        fixed: pad every step to M, as one captured CUDA graph needs it.

    Raises:
        ValueError: the model cannot run so; says why, and what to use instead.
    """

    def __init__(  # noqa: PLR0913 (settings of one object, all but the first by name)
        self,
        lm: LM,
        *,
        temperature: float = 1.0,
        sampling_temperature: float = 0.0,
        seed: int = 0,
        kv_cache_bytes: int = KV_CACHE_BYTES,
        max_tokens: int = _DEFAULT_TOKENS,
        draft_tokens: int = 0,
        share_prefixes: bool = True,
        fixed: bool = False,
        poisoned: bool = False,
    ) -> None:
        reason = why_not(lm)
        if reason is not None:
            raise ValueError(
                f"{lm.name} cannot use the rollout engine: {reason}; use engine='generate'"
            )
        self.lm = lm
        self._linears = CPULinears(lm)
        self.temperature = temperature
        self._sampler = make_sampler(sampling_temperature, seed)
        self.num_generated_tokens = 0
        self.num_forward_tokens = 0
        self.block_size, self.block_bytes = BLOCK_SIZE, block_bytes(lm)
        num_blocks = 1 + kv_cache_bytes // self.block_bytes
        self.max_sequence_tokens = BLOCK_SIZE * min(num_blocks - 1, _table_width(lm))
        self._cache = KVCache(lm, max(num_blocks, 2), poisoned=poisoned)
        self._buffers = _buffers(max_tokens, min(num_blocks, _table_width(lm)))
        self._scheduler = Scheduler(
            self._buffers,
            num_blocks=max(num_blocks, 2),
            block_size=BLOCK_SIZE,
            table_width=self._buffers["block_tables"].shape[1],
            max_tokens=max_tokens,
            min_tokens=min(MIN_ROWS, max_tokens),
            fixed_tokens=fixed,
            max_sequences=max_tokens,
            vocab_size=lm.vocab_size,
            draft_tokens=draft_tokens,
            share_prefixes=share_prefixes,
        )

    @cached_property
    def can_pack(self) -> bool:
        """Whether the model runs over packed suffixes."""
        return suffix_forward.why_not(self.lm) is None

    @property
    def statistics(self) -> dict[str, int]:
        """Counts since the engine was made: steps, tokens computed, shared, drafted, accepted."""
        return self._scheduler.statistics()

    def run(
        self, requests: Sequence[RolloutRequest], on_finished: OnFinished | None = None
    ) -> list[Rollout | None]:
        """Rollouts in the order of the requests; None where `on_finished` dropped the group.

        Raises:
            ValueError: a request that can never run (ids, spans, a sequence longer than the pool);
                says which one, before any work.
        """
        before = self.statistics["generated_tokens"]
        self._submit(requests)
        rollouts: list[Rollout | None] = [None] * len(requests)
        try:
            while not self._scheduler.idle:
                self._step()
                for (
                    number,
                    reasoning,
                    answer,
                    nll,
                    logprobs,
                    hits,
                ) in self._scheduler.take_finished():
                    rollouts[number] = rollout = Rollout(
                        reasoning_ids=reasoning,
                        answer_ids=answer,
                        answer_logprobs=logprobs,
                        answer_hits=tuple(map(bool, hits)),
                        prompt_nll=math.fsum(nll) / max(len(nll), 1),
                    )
                    for group in on_finished(number, rollout) if on_finished else ():
                        self._scheduler.cancel_group(group)
        finally:
            self._drop_all(len(requests))
        self.num_generated_tokens += self.statistics["generated_tokens"] - before
        return rollouts

    def next_logits(self, contexts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits [C, V], in at least float32, of the token after each context."""
        nothing: frozenset[int] = frozenset()
        self._submit([RolloutRequest(tuple(ids), 1, nothing) for ids in contexts])
        logits: dict[int, torch.Tensor] = {}
        try:
            while not self._scheduler.idle:
                self._step(logits)
                self._scheduler.take_finished()
        finally:
            self._drop_all(len(contexts))
        return torch.stack([logits[number] for number in range(len(contexts))])

    def prefix_kv(self, ids: Sequence[int]) -> PrefixKV | None:
        """Keys and values of the longest stored prefix of `ids`; sure until the next run."""
        num_tokens, block_ids = self._scheduler.cached_prefix(ids)
        if num_tokens == 0:
            return None
        return PrefixKV(num_tokens, self._cache, torch.tensor(block_ids, device=self.lm.device))

    def check_integrity(self) -> None:
        """Raise RuntimeError at the first contradiction in the scheduler's state."""
        self._scheduler.check_integrity()

    def _submit(self, requests: Sequence[RolloutRequest]) -> None:
        self._sample_keys = sample_keys([r.sample_key for r in requests], self.lm.device)
        try:
            for number, request in enumerate(requests):
                self._scheduler.submit(
                    key=number,
                    group=request.group,
                    prompt_ids=request.prompt_ids,
                    prompt_span=request.prompt_span,
                    draft_ids=request.draft_ids,
                    target_ids=request.target_ids,
                    num_scored=request.num_scored,
                    max_new_tokens=request.max_new_tokens,
                    max_answer_tokens=request.max_answer_tokens,
                    end_ids=sorted(request.end_ids),
                )
        except (ValueError, TypeError) as error:
            self._drop_all(len(requests))
            raise ValueError(f"request {number}: {error}") from error
        self._prompt_lens = torch.tensor([len(r.prompt_ids) for r in requests]).to(self.lm.device)

    def _drop_all(self, num_requests: int) -> None:
        """Leave nothing behind, whatever stopped a run."""
        if not self._scheduler.idle:
            self._scheduler.abort()
        self._scheduler.take_finished()

    def _step(self, collected: dict[int, torch.Tensor] | None = None) -> None:
        """One step of the batch; logits of generating rows go to `collected` by request number."""
        num_tokens, num_sequences, num_rows, num_copies, _ = self._scheduler.plan()
        buffers = self._buffers
        if num_copies:
            self._cache.copy(torch.from_numpy(buffers["copies"][:num_copies]))
        plan = Plan(
            cache=self._cache,
            tokens=buffers["tokens"][:num_tokens],
            positions=buffers["positions"][:num_tokens],
            slots=buffers["slots"],
            query_starts=buffers["query_starts"],
            context_lens=buffers["context_lens"],
            block_tables=buffers["block_tables"],
            num_sequences=num_sequences,
        )
        with self._linears.installed():
            hidden = forward(self.lm, plan)
            answers = self._read(hidden, num_rows, collected)
        self.num_forward_tokens += num_tokens
        self._scheduler.commit(*answers)

    @torch.inference_mode()
    def _read(
        self, hidden: torch.Tensor, num_rows: int, collected: dict[int, torch.Tensor] | None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32] | None]:
        """Argmax ids [R], log-probabilities [R] of the targets and sampled ids [R], if any are."""
        argmax, logprobs = np.zeros(num_rows, np.int32), np.zeros(num_rows, np.float32)
        sampled = np.zeros(num_rows, np.int32) if self._sampler else None
        chunk = max(MIN_ROWS, LOGIT_FLOATS // self.lm.vocab_size)
        for start in range(0, num_rows, chunk):
            stop = min(start + chunk, num_rows)
            rows, targets, kinds, keys = (
                torch.from_numpy(self._buffers[name][start:stop]).to(self.lm.device, torch.int64)
                for name in ("logit_rows", "targets", "target_kinds", "row_keys")
            )
            # Too few rows are filled up with the first, for the same bits as in a full batch.
            padded = torch.cat([rows, rows.new_zeros(max(MIN_ROWS - len(rows), 0))])
            logits = self.lm.logits(hidden[padded])[: len(rows)]  # [R, V]
            argmax[start:stop] = logits.argmax(-1).cpu()
            scored = (targets >= 0).nonzero().squeeze(-1)
            if len(scored):
                temperatures = torch.where(kinds[scored] == 1, self.temperature, 1.0)[:, None]
                scaled = logits[scored] / temperatures
                values = scaled.gather(-1, targets[scored, None]).squeeze(-1) - scaled.logsumexp(-1)
                logprobs[start + scored.cpu().numpy()] = values.float().cpu()
            if sampled is not None:
                sampled[start:stop] = self._sample(logits, rows, keys).cpu()
            if collected is not None:
                collected.update(zip(keys.tolist(), logits.clone(), strict=True))
        return argmax, logprobs, sampled

    def _sample(self, logits: torch.Tensor, rows: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Ids [R] to write where rows generate, 0 inside of prompts."""
        assert self._sampler is not None
        positions = torch.from_numpy(self._buffers["positions"]).to(self.lm.device)[rows]
        places = positions + 1 - self._prompt_lens[keys]
        ids = torch.zeros_like(rows)
        chosen = (places >= 0).nonzero().squeeze(-1)
        examples = self._sample_keys[keys[chosen]]
        ids[chosen] = self._sampler.perturbed(logits[chosen], examples, places[chosen]).argmax(-1)
        return ids


def _table_width(lm: LM) -> int:
    """Blocks of the longest sequence the model was made for."""
    return -(-(lm.max_context or 1 << 17) // BLOCK_SIZE)


def _buffers(max_tokens: int, table_width: int) -> dict[str, NDArray[np.int32]]:
    """What the scheduler plans into, allocated once; a step has at most a sequence a token."""
    shapes: dict[str, tuple[int, ...]] = {
        "query_starts": (max_tokens + 1,),
        "context_lens": (max_tokens,),
        "block_tables": (max_tokens, table_width),
        "copies": (max_tokens, 2),
    }
    by_token = ("tokens", "positions", "slots", "logit_rows", "targets", "target_kinds", "row_keys")
    shapes |= dict.fromkeys(by_token, (max_tokens,))
    return {name: np.zeros(shape, np.int32) for name, shape in shapes.items()}
