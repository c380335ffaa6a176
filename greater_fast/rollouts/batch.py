"""Rollouts: reasoning for many sequences in one continuous batch, and what follows it.

The scheduler (csrc/) says which tokens of which sequences go through the model next; Python runs
the model on them and hands back argmax ids and log-probabilities. A sequence passes through
prefill, decoding and scoring without waiting for any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, partial

import torch

from greater_fast.engine import EngineFacts, Layers, OnFinished, Rollout, RolloutRequest
from greater_fast.gradients import packing_trial
from greater_fast.model.cpu.extension import Scheduler
from greater_fast.model.exclusive import exclusive
from greater_fast.model.kv_cache import (
    BLOCK_SIZE,
    KVCache,
    PrefixKV,
    block_bytes,
    default_pool_bytes,
)
from greater_fast.model.lm import LM
from greater_fast.model.own_layers import own_layers
from greater_fast.ranks import ALONE
from greater_fast.rollouts.invariance import is_batch_invariant
from greater_fast.rollouts.outcome import measured, rollout_of, stops_of
from greater_fast.rollouts.paged import longest_of, usable_backend
from greater_fast.rollouts.sampled_rows import SampledRows
from greater_fast.rollouts.sampling import check_draws, decoding_of, make_sampler
from greater_fast.rollouts.steps.again import again_without_memory
from greater_fast.rollouts.steps.fixed_step import FixedStep
from greater_fast.rollouts.steps.ragged_step import RaggedStep
from greater_fast.rollouts.steps.row_reader import MIN_ROWS, RowReader
from greater_fast.rollouts.steps.step_buffers import StepBuffers, StepCounts, step_shapes
from greater_fast.rollouts.steps.step_size import (
    GIVEN_TOKENS,
    best_size,
    has_fixed_steps,
    measure_step_ms,
)

_Logits = dict[int, torch.Tensor]  # [V], by a request's number
_FEW_ROWS = (5, 9, MIN_ROWS)
_TRIED_SIZES = (MIN_ROWS, 40, 256)  # of ragged steps, for a row's bits


class RolloutEngine:
    """The continuous batch. Prefixes are computed once and kept between calls.

    Args:
        lm: the model.
        temperature: divides the logits of scored tokens.
        sampling_temperature: of generated tokens; 0 decodes greedily. Scores and hits stay those of
            the model without noise.
        draws: whether requests may be draws.
        seed: of the sampling.
        kv_cache_bytes: memory of the K/V pool; by default what the device has to give.
        max_tokens: tokens of a step (M); by default chosen on a GPU by what steps take, else 256.
        draft_tokens: drafts fill a step up to this many tokens, 0 turns them off; by default the
            free slots of a fixed step, which cost nothing, and none of another.
        fixed: pad every step to M, as one captured CUDA graph needs it; by default on a GPU, unless
            attention in plain torch would wait for it anyway.
        kernels: `triton`, or `reference` for plain torch; `auto` is Triton on a GPU, csrc on a CPU.
        longest_sequence: tokens of a sequence at most; by default what the model takes.
        num_sequences: how many there are at a time, for the choice of M; by default as many as in a
            search with default settings.

    Raises:
        ValueError: the model cannot run so; says why, and what to use instead.
    """

    ranks = ALONE

    def __init__(  # noqa: PLR0913 (settings of one object, all but the first by name)
        self,
        lm: LM,
        *,
        temperature: float = 1.0,
        sampling_temperature: float = 0.0,
        draws: bool = False,
        seed: int = 0,
        kv_cache_bytes: int | None = None,
        max_tokens: int | None = None,
        draft_tokens: int | None = None,
        share_prefixes: bool = True,
        fixed: bool | None = None,
        kernels: str = "auto",
        longest_sequence: int | None = None,
        num_sequences: int | None = None,
        poisoned: bool = False,
    ) -> None:
        backend = usable_backend(lm, kernels, longest_sequence)
        self.lm, self._longest = lm, longest_sequence
        self._backend, self._kernels = backend, kernels
        if fixed is None:
            fixed = has_fixed_steps(lm, backend)
        self.fixed = fixed
        self._sampler = make_sampler(sampling_temperature, seed, draws=draws)
        self.decoding = decoding_of(temperature, sampling_temperature, seed, draws=draws)
        self._samples_all, self._is_at_work = sampling_temperature > 0, False
        self.num_generated_tokens = 0
        self.num_forward_tokens = 0
        self.block_size, self.block_bytes = BLOCK_SIZE, block_bytes(lm)
        longest = longest_of(lm, longest_sequence)
        table_width = -(-longest // BLOCK_SIZE)
        self.step_ms: Mapping[int, float] = {}
        with self._own_layers():
            if max_tokens is None and fixed and has_fixed_steps(lm, backend):
                reader = RowReader(temperature, self._sampler, lm.device, backend=backend)
                self.step_ms = measure_step_ms(lm, backend, reader, table_width)
                max_tokens = best_size(self.step_ms, num_sequences)
            self.max_tokens = max_tokens = max_tokens or GIVEN_TOKENS
            are_ours = backend != "reference" and self.layers.are_all_linears
            few_are_safe = are_ours and is_batch_invariant(lm, backend, _FEW_ROWS, longest)
            min_rows = 1 if few_are_safe else min(MIN_ROWS, max_tokens)
            sizes = {max_tokens} if fixed else {min(n, max_tokens) for n in _TRIED_SIZES}
            self.batch_invariant = is_batch_invariant(lm, backend, sorted(sizes), longest)
        if draft_tokens is None:
            draft_tokens = max_tokens if fixed else 0
        self.kv_cache_bytes = kv_cache_bytes or default_pool_bytes(lm.device)
        num_blocks = 1 + self.kv_cache_bytes // self.block_bytes
        table_width = max(min(num_blocks - 1, table_width), 1)
        self.prefix_capacity = BLOCK_SIZE * (num_blocks - 1)
        self.max_sequence_tokens = BLOCK_SIZE * min(num_blocks - 1, table_width)
        self._cache = KVCache(lm, max(num_blocks, 2), poisoned=poisoned)
        buffers = StepBuffers(step_shapes(max_tokens, table_width), lm.device)
        make_step = FixedStep if fixed else RaggedStep
        reader = RowReader(temperature, self._sampler, lm.device, min_rows, backend)
        with self._own_layers():  # a graph is captured here
            self._model_step = make_step(lm, self._cache, buffers, backend, reader)
        self._buffers = buffers.host
        self._scheduler = Scheduler(
            self._buffers,
            num_blocks=max(num_blocks, 2),
            block_size=BLOCK_SIZE,
            table_width=table_width,
            max_tokens=max_tokens,
            min_tokens=min_rows,
            fixed_tokens=fixed,
            max_sequences=max_tokens,
            vocab_size=lm.vocab_size,
            draft_tokens=min(draft_tokens, max_tokens),
            share_prefixes=share_prefixes,
        )

    @cached_property
    def can_pack(self) -> bool:
        """Whether the model runs over packed suffixes."""
        return packing_trial.can_pack(self.lm, self._longest, self._kernels, self.layers)

    @cached_property
    def layers(self) -> Layers:
        """What of the model's layers can run by our kernels."""
        return own_layers(self.lm, self._backend)

    @property
    def statistics(self) -> dict[str, int]:
        """Counts since the engine was made: steps, tokens computed, shared, drafted, accepted."""
        return self._scheduler.statistics()

    def facts(self) -> EngineFacts:
        """What a reader of a note or a report wants to know of the engine."""
        graph, no_graph, graph_bytes = self._model_step.captured
        counted = self.statistics
        names = ("steps", "drafted_tokens", "accepted_tokens", "preemptions")
        return EngineFacts(
            attention=self._backend,
            step_tokens=self.max_tokens,
            step_ms=self.step_ms,
            batch_invariant=self.batch_invariant,
            has_graph=graph is not None,
            graph_bytes=graph_bytes,
            no_graph=no_graph,
            **{name: counted[name] for name in names},
        )

    @exclusive
    def run(
        self, requests: Sequence[RolloutRequest], on_finished: OnFinished | None = None
    ) -> list[Rollout | None]:
        """Rollouts in the order of the requests; None where `on_finished` dropped the group.

        Raises:
            ValueError: a request that can never run (ids, spans, a sequence longer than the pool);
                says which one, before any work.
            RuntimeError: it is called by what is called within a run.
        """
        before = self.statistics["generated_tokens"]
        rollouts: list[Rollout | None] = [None] * len(requests)
        with self._at_work():
            self._submit(requests)
            while not self._scheduler.idle:
                self._step()
                for outcome in self._scheduler.take_finished():
                    number = outcome[0]
                    made = rollout_of(requests[number], outcome)
                    rollouts[number] = rollout = measured(requests[number], made, self.lm.ranks)
                    for group in on_finished(number, rollout) if on_finished else ():
                        self._scheduler.cancel_group(group)
        self.num_generated_tokens += self.statistics["generated_tokens"] - before
        return rollouts

    @exclusive
    def next_logits(self, contexts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits [C, V], at least float32, of the token after each context; errors as of `run`."""
        logits: _Logits = {}
        self._read(contexts, logits)
        return torch.stack([logits[number] for number in range(len(contexts))])

    @exclusive
    def store(self, contexts: Sequence[Sequence[int]]) -> None:
        """Compute what is not stored of the contexts, as far as the pool has room for it.

        So their keys and values have the bits of a rollout's, whatever was stored before.
        """
        if any(self._scheduler.cached_prefix(ids)[0] < len(ids) for ids in contexts):
            self._read(contexts, None)  # all: what is not asked for may be put out

    def _read(self, contexts: Sequence[Sequence[int]], logits: _Logits | None) -> None:
        """Take contexts in and write nothing that counts; `logits` get those of the next token."""
        with self._at_work():
            self._submit([RolloutRequest(tuple(ids), 1, frozenset()) for ids in contexts])
            while not self._scheduler.idle:
                self._step(logits)
                self._scheduler.take_finished()

    def prefix_kv(self, ids: Sequence[int]) -> PrefixKV | None:
        """Keys and values of the longest stored prefix of `ids`; sure until the next run."""
        num_tokens, block_ids = self._scheduler.cached_prefix(ids)
        if num_tokens == 0:
            return None
        return PrefixKV(num_tokens, self._cache, torch.tensor(block_ids, device=self.lm.device))

    def check_integrity(self) -> None:
        """Raise RuntimeError at the first contradiction in the scheduler's state."""
        self._scheduler.check_integrity()

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Within is a run that no other is a part of; it leaves nothing behind, however it ends."""
        if self._is_at_work:
            who = "a metric, or what is told of finished rows,"
            what = f"{who} cannot run the model that is searched; give it one of its own"
            raise RuntimeError(f"the engine is at work: {what}")
        self._is_at_work = True
        try:
            yield
        finally:
            if not self._scheduler.idle:
                self._scheduler.abort()
            self._scheduler.take_finished()
            self._is_at_work = False

    def _submit(self, requests: Sequence[RolloutRequest]) -> None:
        check_draws(requests, self._sampler)
        stops = stops_of(requests)
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
                    stop=stops[request.stop],
                    answer_stop=stops[request.answer_stop],
                )
        except (ValueError, TypeError) as error:
            raise ValueError(f"request {number}: {error}") from error
        self._sampled = SampledRows(requests, samples_all=self._samples_all)

    def _step(self, collected: _Logits | None = None) -> None:
        """One step of the batch; logits of generating rows go to `collected` by request number."""
        counts = StepCounts(*self._scheduler.plan())
        if self._sampler is not None:
            self._sampled.place(self._buffers, counts.num_rows)
        # A graph that is replayed runs no layer.
        with nullcontext() if self._model_step.captured.graph else self._own_layers():
            answers = again_without_memory(partial(self._model_step.run, counts), self.lm.ranks)
            if collected is not None:
                keys = self._buffers["row_keys"][: counts.num_rows].tolist()
                logits = self._model_step.logits(counts.num_rows)
                collected.update(zip(keys, logits, strict=True))
        self.num_forward_tokens += counts.num_tokens
        self._scheduler.commit(*self._sampled.written(answers, self._buffers))

    def _own_layers(self) -> AbstractContextManager[None]:
        """Within, layers run by our kernels where they can, unless plain torch was asked for."""
        return nullcontext() if self._backend == "reference" else self.layers.installed()
