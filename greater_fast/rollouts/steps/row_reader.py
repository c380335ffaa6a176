"""What a step says of its rows of logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from greater_fast.kernels.dispatch import target_logprob_and_sample
from greater_fast.kernels.reference import Head
from greater_fast.model.cpu.extension import read_logits
from greater_fast.model.lm import logprobs_of
from greater_fast.rollouts.sampling import Sampler

# With torch's matrix products a row's bits change with the number of rows under 12 (measured: fp32
# on a CPU); 16 is safe.
MIN_ROWS = 16


class Answers(NamedTuple):
    """Of R rows: argmax ids, log-probabilities of their targets, and sampled ids, if any are.

    A row without a target has 0, or NaN where its logits are not finite.
    """

    argmax: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    sampled: NDArray[np.int32] | None


class RowReader:
    """Scores and samples rows of logits. No method waits for a GPU.

    `temperature` divides the logits of scored tokens; the sampler has its own. Logits are to be
    made of `min_rows` rows at least. With the backend `csrc` they are read there, else by torch.
    """

    def __init__(
        self,
        temperature: float,
        sampler: Sampler | None,
        device: torch.device,
        min_rows: int = MIN_ROWS,
        backend: str = "reference",
    ) -> None:
        self.sampler, self.min_rows = sampler, min_rows
        self._by_csrc = backend == "csrc"
        self._temperatures = torch.tensor([1.0, temperature], device=device)

    def read(
        self, logits: torch.Tensor, targets: torch.Tensor, kinds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Argmax ids [R] int32 of logits [R, V], and log-probabilities [R] float32 of `targets`.

        These are 0 where the target is -1, or NaN where that row is not finite. Targets of kind 1
        are the answer's, at the temperature of the loss; others are at 1.
        """
        temperatures = self._temperatures.to(logits.dtype)[kinds.long()]
        if self._by_csrc:
            argmax, logprobs = np.empty(len(logits), np.int32), np.empty(len(logits), np.float32)
            numbers = logits.contiguous().numpy()
            read_logits(numbers, targets.numpy(), temperatures.numpy(), argmax, logprobs)
            return torch.from_numpy(argmax), torch.from_numpy(logprobs)
        values = logprobs_of(targets.clamp(min=0).long(), logits / temperatures[:, None])
        peaks, ids = logits.max(-1)
        unknown = torch.where(peaks.isfinite(), 0.0, torch.nan)
        return ids.int(), values.float().where(targets >= 0, unknown)

    def read_states(
        self, states: torch.Tensor, head: Head, arrays: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """What `read` and `samples` say of the logits of states [R, D], of which none is stored.

        Triton reads the LM head once for all of them. `arrays` are a step's, of R rows; where there
        is a sampler, ids [R] of rows without a place are 0.
        """
        targets, kinds = arrays["targets"], arrays["target_kinds"]
        noise = None
        if self.sampler:
            examples = arrays["sample_keys"].view(torch.int64).squeeze(-1)
            noise = self.sampler.noise(examples, arrays["sample_places"].long())
        logprobs, argmax, sampled = target_logprob_and_sample(
            states, targets.long(), head, self._temperatures[kinds.long()], noise, "triton"
        )
        return argmax, logprobs.masked_fill((targets < 0) & ~logprobs.isnan(), 0), sampled

    def samples(
        self, logits: torch.Tensor, keys: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        """Ids [R] drawn from `logits` [R, V]; `keys` [R, 2] are int64 in two parts."""
        assert self.sampler is not None
        examples = keys.view(torch.int64).squeeze(-1)
        return self.sampler.perturbed(logits, examples, places.long()).argmax(-1)
