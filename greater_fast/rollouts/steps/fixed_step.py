"""A step of fixed shape: the same work whatever is in its slots, captured once on a GPU."""

from __future__ import annotations

import torch

from greater_fast.kernels.reference import Head
from greater_fast.model.kv_cache import KVCache
from greater_fast.model.lm import LM, LOGIT_FLOATS
from greater_fast.rollouts.attention_backends import backend_of
from greater_fast.rollouts.paged import forward
from greater_fast.rollouts.plan import Plan
from greater_fast.rollouts.steps.cuda_graph import capture
from greater_fast.rollouts.steps.row_reader import MIN_ROWS, Answers, RowReader
from greater_fast.rollouts.steps.step_buffers import StepBuffers, StepCounts


class FixedStep:
    """A step of M slots: one transfer in, block copies, model and logits, one transfer out.

    Between the transfers nothing waits for the host: on a GPU that is one CUDA graph, on a CPU, or
    where no graph could be `captured`, the same code is run. All of the M rows that a step may ask
    for are read in each: by a kernel that stores no logits where Triton attends and the LM head is
    one dense matrix, else from logits.
    """

    def __init__(
        self, lm: LM, cache: KVCache, buffers: StepBuffers, backend: str, reader: RowReader
    ) -> None:
        self._lm, self._reader = lm, reader
        self._buffers, self._arrays = buffers, buffers.device
        num_slots = len(self._arrays["tokens"])
        self._plan = Plan.of(cache, backend, self._arrays, num_slots, num_slots)
        self._hidden = torch.empty(0)
        self._chunk = min(num_slots, max(1, LOGIT_FLOATS // lm.vocab_size))
        self._head = _fused_head(lm) if backend == "triton" else None
        # Argmax ids, log-probabilities as the bits of float32, sampled ids.
        self._on_gpu = lm.device.type == "cuda"
        self._results = torch.zeros(3, num_slots, dtype=torch.int32, device=lm.device)
        self._received = torch.zeros(3, num_slots, dtype=torch.int32, pin_memory=self._on_gpu)
        block = buffers.place_trial()
        written = (pool[:, :, block] for pool in cache.pools)
        self.captured = capture(self._launch, lm.device, (self._results, *written), lm.ranks)
        buffers.clear()

    def run(self, counts: StepCounts) -> Answers:
        """What the step in the buffers says of its rows; there until the next step."""
        self._buffers.host["copies"][counts.num_copies :] = 0
        self._buffers.upload(wait=False)
        if self.captured.graph is not None:
            self.captured.graph.replay()
        else:
            self._launch()
        self._received.copy_(self._results, non_blocking=True)
        if self._on_gpu:
            torch.cuda.current_stream(self._lm.device).synchronize()
        argmax, logprobs, sampled = self._received[:, : counts.num_rows]
        return Answers(
            argmax.numpy(),
            logprobs.view(torch.float32).numpy(),
            sampled.numpy() if self._reader.sampler else None,
        )

    @torch.inference_mode()
    def logits(self, num_rows: int) -> torch.Tensor:
        """Logits [R, V] at the rows of the step that was run last.

        They alone are computed, a few at a time and always as many, for the same bits in each.
        """
        tokens = self._arrays["logit_rows"][:num_rows].long()
        parts = tokens.split(MIN_ROWS) if num_rows else (tokens,)
        return torch.cat([self._padded_logits(part)[: len(part)] for part in parts])

    def _padded_logits(self, tokens: torch.Tensor) -> torch.Tensor:
        padded = torch.cat([tokens, tokens.new_zeros(MIN_ROWS - len(tokens))])
        return self._lm.logits(self._hidden[padded])

    def _chunks(self) -> list[slice]:
        """All rows, in chunks of equal size for the same bits in each: the last may overlap."""
        num_slots, size = len(self._plan.tokens), self._chunk
        starts = (min(start, num_slots - size) for start in range(0, num_slots, size))
        return [slice(start, start + size) for start in starts]

    @torch.inference_mode()
    def _launch(self) -> None:
        backend_of(self._plan).copy_blocks(self._plan.cache, self._arrays["copies"])
        self._hidden = forward(self._lm, self._plan)
        if self._head is not None:
            self._read_states(self._head)
        else:
            for rows in self._chunks():
                self._read(rows)

    def _read_states(self, head: Head) -> None:
        argmax, logprobs, sampled = self._results
        states = self._hidden[self._arrays["logit_rows"].long()]
        ids, values, drawn = self._reader.read_states(states, head, self._arrays)
        argmax.copy_(ids)
        logprobs.view(torch.float32).copy_(values)
        if drawn is not None:
            sampled.copy_(drawn)

    def _read(self, rows: slice) -> None:
        argmax, logprobs, sampled = self._results[:, rows]
        targets, kinds, keys, places = (
            self._arrays[name][rows]
            for name in ("targets", "target_kinds", "sample_keys", "sample_places")
        )
        logits = self._lm.logits(self._hidden[self._arrays["logit_rows"][rows].long()])
        ids, values = self._reader.read(logits, targets, kinds)
        argmax.copy_(ids)
        logprobs.view(torch.float32).copy_(values)
        if self._reader.sampler:
            drawn = self._reader.samples(logits, keys, places)
            sampled.copy_(drawn.masked_fill(places < 0, 0))


def _fused_head(lm: LM) -> Head | None:
    """The LM head for Triton, None where its kernel cannot take it; a CPU's is interpreted."""
    if lm.device.type == "cuda":
        return lm.fused_head()
    return lm.fused_head("triton") if lm.head else None
