"""Intervals of paired differences where the unit is the seed: by Student's t, and by bootstrap."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

import numpy as np

Groups = Sequence[Sequence[float]]  # by task: a figure of each seed
_NUM_RESAMPLES = 10_000
_AGREE = 1e-18  # variance that differences of equal shares have by their rounding, and more


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95% interval."""

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """How far the ends are from the mean, the farther one."""
        return max(self.high - self.mean, self.mean - self.low)


def pooled_interval(groups: Groups) -> Interval | None:
    """Mean over groups of their means, with Student's 95% interval.

    None under 2 figures in one, and where those of each agree: they say nothing of their spread.

    The groups (tasks) are taken as they are, the figures in them (seeds) as drawn: it speaks of
    other seeds of these tasks. With s² the variance in a group and n its figures, v = s²/n, the
    variance of the mean of T groups is Σ v / T², its degrees of freedom (Satterthwaite)
    (Σ v)² / Σ (v² / (n − 1)), rounded down. One group gives the plain t interval.
    """
    if not groups or min(map(len, groups)) < 2:
        return None
    mean = fmean(fmean(group) for group in groups)
    parts = [variance(group) / len(group) for group in groups]
    if sum(parts) < _AGREE:
        return None
    freedom = sum(parts) ** 2 / sum(
        v**2 / (len(group) - 1) for v, group in zip(parts, groups, strict=True)
    )
    half = t_quantile(int(freedom + 1e-9)) * math.sqrt(sum(parts)) / len(groups)
    return Interval(mean, mean - half, mean + half)


def bootstrap_interval(groups: Groups, seed: int = 0) -> Interval | None:
    """The same mean with the 95% percentile interval of a bootstrap: seeds redrawn in each task.

    With three groups of 8 it is about a sixth too narrow: a look at the shape beside Student's.
    """
    if pooled_interval(groups) is None:
        return None
    source = np.random.default_rng(seed)
    means = [
        source.choice(np.asarray(group, float), (_NUM_RESAMPLES, len(group))).mean(1)
        for group in groups
    ]
    low, high = np.quantile(np.mean(means, axis=0), (0.025, 0.975))
    return Interval(fmean(fmean(group) for group in groups), float(low), float(high))


def t_quantile(freedom: int, confidence: float = 0.95) -> float:
    """The t that Student's |T| with whole degrees of freedom is under with that probability."""
    low, high = 0.0, 1.0
    while _within(high, freedom) < confidence:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """P(|T| ≤ t) (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = freedom % 2
    term, total = (cosine, cosine if freedom > 1 else 0.0) if is_odd else (1.0, 1.0)
    for k in range(2 + is_odd, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if is_odd else sine * total
