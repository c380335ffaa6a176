"""Gumbel noise that is computed, not drawn, in plain torch; `head_logits` has it in Triton."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch

KEYS = 1 << 63  # seeds and examples are taken modulo this
ODD_64 = 0x2545F4914F6CDD1D
ODD_32 = (0x2C1B3C6D, 0x297A2D39)


class Noise(NamedTuple):
    """Gumbel noise, `temperature` times of which makes the argmax of R rows of logits a sample.

    It is a hash of the seed, `examples` [R] int64, `places` [R] int64 and the token. A row whose
    place is below 0 is not sampled.
    """

    seed: int
    examples: torch.Tensor
    places: torch.Tensor
    temperature: float


def gumbel_noise(
    seed: int, examples: torch.Tensor, places: torch.Tensor, vocab_size: int
) -> torch.Tensor:
    """Gumbel noise [R, V] float32 for `examples` and `places` [R] int64, on their device.

    An entry does not depend on R or V.
    """
    bits = noise_bits(seed, examples, places, vocab_size)
    uniform = bits.float().add_(0.5).mul_(2.0**-31).clamp_(max=1 - 2.0**-24)
    return uniform.neg_().log1p_().neg_().log_().neg_()


def noise_bits(
    seed: int, examples: torch.Tensor, places: torch.Tensor, vocab_size: int
) -> torch.Tensor:
    """The uniform numbers behind the noise: 31 bits [R, V] int32, the same on every device.

    As `(bits + 0.5) / 2**31` they give noise that is finite at both ends, and finest where it is
    largest.
    """
    words = _mix(_mix(noise_keys(seed, examples)) + places).unsqueeze(-1).view(torch.int32)
    ids = torch.arange(vocab_size, device=examples.device)
    bits = _mix(ids).unsqueeze(-1).view(torch.int32)[:, 0] ^ words[:, :1]  # [R, V]
    bits = bits.mul_(ODD_32[0])
    bits ^= (bits >> 15) & 0x1FFFF
    bits ^= words[:, 1:]
    bits = bits.mul_(ODD_32[1])
    bits ^= (bits >> 16) & 0xFFFF
    return bits & 0x7FFFFFFF


def noise_keys(seed: int, examples: torch.Tensor) -> torch.Tensor:
    """One number [R] int64 for the seed and each example."""
    return examples + _mixed_seed(seed)


@cache
def _mixed_seed(seed: int) -> int:
    return int(_mix(torch.tensor(seed % KEYS, dtype=torch.int64, device="cpu")))


def _mix(x: torch.Tensor) -> torch.Tensor:
    """A bijection of int64 in which every bit depends on every bit, and 0 is no fixed point."""
    x = x + ODD_64
    for _ in range(3):
        x = (x ^ ((x >> 32) & 0xFFFFFFFF)) * ODD_64
    return x ^ ((x >> 32) & 0xFFFFFFFF)
