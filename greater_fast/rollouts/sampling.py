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

_KEYS = 1 << 63  # seeds and sample keys are taken modulo this
_ODD_64 = 0x2545F4914F6CDD1D
_ODD_32 = (0x2C1B3C6D, 0x297A2D39)


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
        reduced = [operator.index(key) % _KEYS for key in keys]
    except TypeError as error:
        raise ValueError(f"sample_key: {error}") from error
    return torch.tensor(reduced, dtype=torch.int64, device=device)


def gumbel_noise(
    seed: int, examples: torch.Tensor, places: torch.Tensor, vocab_size: int
) -> torch.Tensor:
    """Gumbel noise [R, V] float32 for `examples` and `places` [R] int64, on their device.

    The uniform numbers behind it are the same on every device: 31 bits, finite at both ends, and
    finest where the noise is largest. An entry does not depend on R or V.
    """
    state = torch.full_like(examples, seed % _KEYS)
    words = _mix(_mix(_mix(state) + examples) + places).unsqueeze(-1).view(torch.int32)  # [R, 2]
    ids = torch.arange(vocab_size, device=examples.device)
    bits = _mix(ids).unsqueeze(-1).view(torch.int32)[:, 0] ^ words[:, :1]  # [R, V]
    bits = bits.mul_(_ODD_32[0])
    bits ^= (bits >> 15) & 0x1FFFF
    bits ^= words[:, 1:]
    bits = bits.mul_(_ODD_32[1])
    bits ^= (bits >> 16) & 0xFFFF
    uniform = (bits & 0x7FFFFFFF).float().add_(0.5).mul_(2.0**-31).clamp_(max=1 - 2.0**-24)
    return uniform.neg_().log1p_().neg_().log_().neg_()


def _mix(x: torch.Tensor) -> torch.Tensor:
    """A bijection of int64 in which every bit depends on every bit, and 0 is no fixed point."""
    x = x + _ODD_64
    for _ in range(3):
        x = (x ^ ((x >> 32) & 0xFFFFFFFF)) * _ODD_64
    return x ^ ((x >> 32) & 0xFFFFFFFF)
