"""Sampling as a pure function: Gumbel noise that is computed, not drawn.

argmax(logits / T + g), with independent g = -log(-log u) and u uniform, is a draw from
softmax(logits / T). Here u is a hash of (seed, example, place, vocabulary id), and so a token is a
function of its context and of these: sharing prefixes, guessing, preempting, padding or the order
of the batch change nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from greater_fast.kernels.vocabulary.noise import KEYS, Noise, gumbel_noise


@dataclass(frozen=True, slots=True)
class Sampler:
    """Noise for a run's generated tokens, at one temperature.

    A place is counted from the end of the prompt, 0 being the first token of the reasoning: prompts
    of different lengths meet the same noise for the same example (common random numbers), so that
    what they come to differs by the prompts and not by luck.
    """

    temperature: float
    seed: int

    def perturbed(
        self, logits: torch.Tensor, examples: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        """Logits + T * noise [R, V], whose argmax is the sample; `examples`, `places` [R] int64."""
        noise = gumbel_noise(self.seed, examples, places, logits.shape[-1])
        return torch.add(logits, noise, alpha=self.temperature)

    def noise(self, examples: torch.Tensor, places: torch.Tensor) -> Noise:
        """The same noise, as a kernel takes it."""
        return Noise(self.seed, examples, places, self.temperature)


def make_sampler(temperature: float, seed: int) -> Sampler | None:
    """The sampler of a temperature, or None at 0, where decoding is greedy.

    Raises:
        ValueError: the temperature is negative.
    """
    if temperature < 0:
        raise ValueError(f"sampling_temperature: got {temperature}, expected 0 or more")
    return Sampler(temperature, seed) if temperature > 0 else None


def sample_keys(keys: Sequence[int], device: torch.device) -> torch.Tensor:
    """Keys [R] int64 of examples.

    Raises:
        ValueError: a key is no whole number.
    """
    try:
        reduced = [operator.index(key) % KEYS for key in keys]
    except TypeError as error:
        raise ValueError(f"sample_key: {error}") from error
    return torch.tensor(reduced, dtype=torch.int64, device=device)
