"""Oracles in float64 for the ops of `kernels/`: sums of products, one at a time."""

import math
from collections.abc import Sequence

import torch

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def random_matrix(rows: int, width: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Normal numbers inside a larger matrix of NaN: what is read beyond the edge shows."""
    around = torch.full((rows + 3, width + 5), torch.nan, dtype=dtype)
    matrix = around[1 : rows + 1, :width]
    generator = torch.Generator("cpu").manual_seed(seed)
    matrix.copy_(torch.randn(rows, width, generator=generator, device="cpu"))
    return matrix


def random_ids(limit: int, number: int, seed: int = 0) -> torch.Tensor:
    """Ids below a limit."""
    generator = torch.Generator("cpu").manual_seed(seed)
    ids = torch.randint(0, limit, (number,), generator=generator, device="cpu")
    return ids.to(torch.get_default_device())


def all_products(a: torch.Tensor, b: torch.Tensor, scale: float = 1.0) -> list[list[float]]:
    """`scale a_i · b_j`, row by row."""
    others = b.tolist()
    return [
        [scale * math.fsum(x * y for x, y in zip(one, other, strict=True)) for other in others]
        for one in a.tolist()
    ]


def lowest(scores: Sequence[float], allowed: Sequence[bool], k: int) -> list[int]:
    """The k allowed places with the lowest scores, -1 where there are no more."""
    order = sorted((score, i) for i, score in enumerate(scores) if allowed[i] and score < math.inf)
    return ([i for _, i in order] + [-1] * k)[:k]


def log_softmax(logits: Sequence[float], temperature: float) -> list[float]:
    """At a temperature."""
    powers = [x / temperature for x in logits]
    top = max(powers)
    total = top + math.log(math.fsum(math.exp(x - top) for x in powers))
    return [x - total for x in powers]


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference from float64."""
    return float((found.double() - expected).abs().max()) if found.numel() else 0.0
