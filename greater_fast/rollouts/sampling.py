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
from typing import Any

import torch

from greater_fast.engine import RolloutRequest
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


def make_sampler(temperature: float, seed: int, *, draws: bool = False) -> Sampler | None:
    """The sampler of a temperature, or None at 0, where decoding is greedy.

    `draws` says that there will be requests that are draws, for which it samples at 1.

    Raises:
        ValueError: the temperature is negative, or, with draws, not that of theirs.
    """
    if temperature < 0 or (draws and temperature not in (0, 1)):
        expected = "0 or 1, as draws are at 1" if draws else "0 or more"
        raise ValueError(f"sampling_temperature: got {temperature}, expected {expected}")
    temperature = 1.0 if draws else temperature
    return Sampler(temperature, seed) if temperature > 0 else None


def decoding_of(
    temperature: float, sampling_temperature: float, seed: int, *, draws: bool
) -> dict[str, Any]:
    """What an engine is made with, by the names of settings, for who compares them with others."""
    return {
        "temperature": temperature,
        "sampling_temperature": sampling_temperature,
        "seed": seed,
        "draws": draws,
    }


def check_draws(requests: Sequence[RolloutRequest], sampler: Sampler | None) -> None:
    """Refuse draws where there is no noise for them."""
    if sampler is None and any(request.is_draw for request in requests):
        raise ValueError("a draw is asked for, and the engine decodes greedily: make it with draws")


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
