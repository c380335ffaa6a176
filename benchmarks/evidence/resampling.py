"""Rank correlation, intervals and tests over clusters, and what many comparisons ask of each."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
_NUM_DRAWS = 20_000
_TINY = 1e-9
_LEAST_CLUSTERS = 4  # fewer say nothing of how far they are from each other
_EVEN = (2.5, 97.5)  # percentiles of an interval


def ranks(values: npt.ArrayLike) -> Doubles:
    """Ranks from 1 along the last axis; equals share the mean of theirs."""
    found = np.asarray(values, np.float64)
    below = (found[..., None, :] < found[..., :, None]).sum(-1)
    equal = (found[..., None, :] == found[..., :, None]).sum(-1)
    ranked: Doubles = below + (equal + 1) / 2
    return ranked


def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> Doubles:
    """Rank correlation along the last axis; 0 where either is constant, and so ranks nothing."""
    centred = [r - r.mean(-1, keepdims=True) for r in (ranks(first), ranks(second))]
    lengths = np.sqrt((centred[0] ** 2).sum(-1) * (centred[1] ** 2).sum(-1))
    products = (centred[0] * centred[1]).sum(-1)
    found: Doubles = np.divide(products, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return found


def ceiling(half_correlation: float) -> float:
    """What a signal that is the truth without noise correlates with the truth as it was measured.

    It is the square root of the measured truth's reliability, which is that of its halves after
    Spearman (1910) and Brown (1910): 2 r / (1 + r). 0 where the halves do not agree at all.
    """
    half = min(max(half_correlation, 0.0), 1.0)
    return float(np.sqrt(2 * half / (1 + half)))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95% interval, and the p-value of 0 (two-sided)."""

    mean: float
    low: float
    high: float
    p_value: float


class Clusters:
    """Means over places, which come in clusters: what is drawn are whole clusters.

    The draws are the same for all values of the same places, so that differences are paired.
    """

    def __init__(self, names: Sequence[Hashable], seed: int = 0) -> None:
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        self._owners = np.array([numbers[name] for name in names], np.int64)
        self._number = len(numbers)
        self._sizes = np.bincount(self._owners, minlength=self._number).astype(np.float64)
        source = np.random.default_rng(seed)
        drawn = source.integers(0, self._number, (_NUM_DRAWS, self._number))
        self._times = np.zeros((_NUM_DRAWS, self._number))  # that a cluster is drawn
        np.add.at(self._times, (np.arange(_NUM_DRAWS)[:, None], drawn), 1)
        self._signs = source.choice((-1.0, 1.0), (_NUM_DRAWS, self._number))

    def estimate(self, values: npt.ArrayLike) -> Estimate:
        """Of values [P], one a place: the interval by bootstrap, the p-value by turned signs.

        The bootstrap is studentised (Efron, 1981): with a dozen clusters the plain one's intervals
        are too narrow. A draw of clusters that are all alike, but not as the mean is, is infinitely
        many of its errors away: where such draws are many, as few clusters are not alike, the end
        is open. Where 0 is the middle of what clusters sum to, turning the signs of some of them
        changes nothing: the p-value is the share of draws of signs whose sum is as far from 0.
        """
        array = np.asarray(values, np.float64)
        sums = np.bincount(self._owners, array, self._number).astype(np.float64)
        mean, error = self._mean_and_error(sums, np.ones((1, self._number)))
        means, errors = self._mean_and_error(sums, self._times)
        offsets, least = means - mean, _TINY * np.abs(array).max(initial=0)
        distances = np.copysign(np.inf, offsets)
        np.divide(offsets, errors, out=distances, where=errors > least)
        distances = distances[(errors > least) | (np.abs(offsets) > least)]
        widths = np.zeros(2)
        if self._number < _LEAST_CLUSTERS:
            widths = np.array([-np.inf, np.inf])
        elif len(distances):
            widths = np.percentile(distances, _EVEN, method="nearest") * error[0]
        low, high = (float(mean[0] - width) for width in widths[::-1])
        turned = np.abs(self._signs @ sums)
        as_far = (turned >= abs(sums.sum()) * (1 - _TINY)).sum()
        return Estimate(float(mean[0]), low, high, float((1 + as_far) / (1 + _NUM_DRAWS)))

    def _mean_and_error(self, sums: Doubles, times: Doubles) -> tuple[Doubles, Doubles]:
        """Means [B] over places, and their standard errors, of clusters drawn so many times."""
        sizes = times @ self._sizes
        means = times @ sums / sizes
        residuals = sums - means[:, None] * self._sizes
        squares = (times * residuals**2).sum(1)
        correction = self._number / max(self._number - 1, 1)
        return means, np.sqrt(squares * correction) / sizes


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values for all of a family to be right together (Holm, 1979), in their order."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, number in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = highest
    return adjusted
