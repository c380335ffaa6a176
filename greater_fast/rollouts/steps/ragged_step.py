"""A step of the shape it needs: what a CPU takes, where every row costs time."""

from __future__ import annotations

import numpy as np
import torch

from greater_fast.model.kv_cache import KVCache
from greater_fast.model.lm import LM, LOGIT_FLOATS
from greater_fast.rollouts.paged import forward
from greater_fast.rollouts.plan import Plan
from greater_fast.rollouts.steps.cuda_graph import Captured
from greater_fast.rollouts.steps.row_reader import Answers, RowReader
from greater_fast.rollouts.steps.step_buffers import StepBuffers, StepCounts


class RaggedStep:
    """Runs the model on the tokens of a planned step, and reads the rows that are asked for."""

    captured = Captured()

    def __init__(
        self, lm: LM, cache: KVCache, buffers: StepBuffers, backend: str, reader: RowReader
    ) -> None:
        self._lm, self._cache, self._backend, self._reader = lm, cache, backend, reader
        self._buffers, self._arrays = buffers, buffers.device
        self._hidden = torch.empty(0)
        self._chunk = max(reader.min_rows, LOGIT_FLOATS // lm.vocab_size)

    @torch.inference_mode()
    def run(self, counts: StepCounts) -> Answers:
        """What the step in the buffers says of its rows."""
        self._buffers.upload(wait=True)  # a step without rows would end before it is there
        if counts.num_copies:
            self._cache.copy(self._arrays["copies"][: counts.num_copies])
        plan = Plan.of(
            self._cache, self._backend, self._arrays, counts.num_tokens, counts.num_sequences
        )
        self._hidden = forward(self._lm, plan)
        num_rows = counts.num_rows
        answers = Answers(
            np.zeros(num_rows, np.int32),
            np.zeros(num_rows, np.float32),
            np.zeros(num_rows, np.int32) if self._reader.sampler else None,
        )
        for rows in self._chunks(num_rows):
            self._read(rows, answers)
        return answers

    @torch.inference_mode()
    def logits(self, num_rows: int) -> torch.Tensor:
        """Logits [R, V] at the rows of the step that was run last."""
        chunks = self._chunks(num_rows) or [slice(0, 0)]  # all its tokens may be of one prefill
        return torch.cat([self._logits(rows) for rows in chunks])

    def _chunks(self, num_rows: int) -> list[slice]:
        starts = range(0, num_rows, self._chunk)
        return [slice(start, min(start + self._chunk, num_rows)) for start in starts]

    def _logits(self, rows: slice) -> torch.Tensor:
        tokens = self._arrays["logit_rows"][rows].long()
        # Too few rows are filled up with the first, for the same bits as in a full batch.
        padded = torch.cat([tokens, tokens.new_zeros(max(self._reader.min_rows - len(tokens), 0))])
        return self._lm.logits(self._hidden[padded])[: len(tokens)]

    def _read(self, rows: slice, answers: Answers) -> None:
        logits = self._logits(rows)
        targets, kinds, keys, places = (
            self._arrays[name][rows]
            for name in ("targets", "target_kinds", "sample_keys", "sample_places")
        )
        ids, values = self._reader.read(logits, targets, kinds)
        answers.argmax[rows], answers.logprobs[rows] = ids.cpu(), values.cpu()
        if answers.sampled is not None:
            chosen = (places >= 0).nonzero().squeeze(-1)
            drawn = self._reader.samples(logits[chosen], keys[chosen], places[chosen])
            answers.sampled[rows.start + chosen.cpu().numpy()] = drawn.cpu()
