"""How sure a measured accuracy is, and a difference; and how both are written for a reader.

Of rows that are right or wrong: Wilson, Newcombe, and McNemar's exact test; of values between 0 and
1, what comes to Wilson's interval and McNemar's test where there are no values but 0 and 1.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean

import numpy as np

from greater_fast.wording import quoted

_MOST_FLIPPED = 16  # differences of which all signs are tried
_NUM_DRAWS, _NUM_AT_A_TIME = 20, 1000
_SURE = 0.05  # p below which a difference is not called chance


def wilson_interval(
    num_correct: int, num_rows: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Wilson's score interval of a proportion, (low, high) in [0, 1].

    With p = num_correct / n and z the normal quantile of (1 + confidence) / 2:
    (p + z²/2n ± z √(p (1 - p) / n + z²/4n²)) / (1 + z²/n). Raises ValueError for impossible counts.
    """
    _check_count("num_correct", num_correct)
    _check_count("num_rows", num_rows)
    if not 0 < num_rows >= num_correct:
        raise ValueError(
            f"got {num_correct} correct of {num_rows} rows; expected at least one row, and no more "
            "correct than rows; check the counts"
        )
    return _score_interval(num_correct / num_rows, num_rows, confidence)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """An interval of the mean of values in [0, 1], (low, high) in [0, 1].

    Wilson's, of n / φ rows: φ = s² / (m (1 - m)) with mean m and variance s² is how much of a
    yes-or-no question's variance the values have, 1 where all are 0 or 1 (a quasi-binomial score
    interval, as for overdispersed counts). One row of φ = 1 is added, φ = (n φ + 1) / (n + 1), so
    that rows which happen to be equal do not look as sure as if there were endlessly many.
    Raises ValueError for no values, or such as are not in [0, 1].
    """
    if not values or not all(0 <= value <= 1 for value in values):
        raise ValueError(f"values: got {quoted(list(values))}; expected numbers from 0 to 1")
    n, mean = len(values), math.fsum(values) / len(values)
    most = mean * (1 - mean)
    share = fmean((value - mean) ** 2 for value in values) / most if most > 0 else 1.0
    share = (n * min(share, 1.0) + 1) / (n + 1)
    return _score_interval(mean, n / share, confidence)


def _score_interval(proportion: float, num_rows: float, confidence: float) -> tuple[float, float]:
    """Wilson's interval; rows need not be whole."""
    if not 0 < confidence < 1:
        raise ValueError(
            f"confidence: got {confidence}; expected above 0 and below 1; pass 0.95 for 95%"
        )
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    shrink = 1 + z * z / num_rows
    centre = (proportion + z * z / (2 * num_rows)) / shrink
    variance = proportion * (1 - proportion) / num_rows + z * z / (4 * num_rows * num_rows)
    half_width = z * math.sqrt(variance) / shrink
    # At the ends the exact bounds are 0 and 1, which rounding misses.
    low = 0.0 if proportion == 0 else max(0.0, centre - half_width)
    high = 1.0 if proportion == 1 else min(1.0, centre + half_width)
    return low, high


def sign_flip_test(differences: Sequence[float]) -> float:
    """P value of the two-sided permutation test of pairs: are their differences 0 on average?

    If neither prompt is better, each row's difference might as well have the other sign. p is the
    share of all ways of giving signs whose sum is at least as far from 0: of all 2^k for up to 16
    differences that are not 0, else of 20,000 drawn ones, the same for the same rows, and the one
    found. Where all are 1, 0 or -1, it is McNemar's exact test.
    """
    sizes = np.abs([d for d in differences if d])
    least = abs(math.fsum(differences)) - 1e-9 * len(differences)  # sums are rounded

    def num_as_far(ways: np.ndarray) -> int:
        return int((np.abs((2.0 * ways - 1) @ sizes) >= least).sum())

    if len(sizes) <= _MOST_FLIPPED:
        every = np.arange(1 << len(sizes))[:, None] >> np.arange(len(sizes)) & 1
        return num_as_far(every) / len(every)
    draw = np.random.default_rng(0).integers
    drawn = (draw(0, 2, (_NUM_AT_A_TIME, len(sizes))) for _ in range(_NUM_DRAWS))
    return (sum(map(num_as_far, drawn)) + 1) / (_NUM_DRAWS * _NUM_AT_A_TIME + 1)


def mcnemar_exact(num_only_first: int, num_only_second: int) -> float:
    """P value of McNemar's exact two-sided test, from the rows only one of two prompts gets right.

    p = min(1, 2 P(X <= min(b, c))) with X ~ Binomial(b + c, 1/2); 1 when the prompts agree on every
    row. Raises ValueError for impossible counts.
    """
    _check_count("num_only_first", num_only_first)
    _check_count("num_only_second", num_only_second)
    num_discordant = num_only_first + num_only_second
    num_ways = 1
    num_tail_ways = 1
    for k in range(1, min(num_only_first, num_only_second) + 1):
        num_ways = num_ways * (num_discordant - k + 1) // k  # C(n, k), exact
        num_tail_ways += num_ways
    # A quotient of integers is correctly rounded however many rows there are.
    return min(1.0, 2 * num_tail_ways / (1 << num_discordant))


def newcombe_interval(
    num_both: int, num_only_first: int, num_only_second: int, num_neither: int
) -> tuple[float, float]:
    """95% interval of p1 - p2, two prompts' accuracies on the same rows, (low, high) in [-1, 1].

    Newcombe 1998 (Statistics in Medicine 17, 2635), method 10: with [l, u] Wilson's intervals,
    p1 - p2 - √((p1 - l1)² - 2φ (p1 - l1)(u2 - p2) + (u2 - p2)²), and the high end with the sides
    exchanged. φ is the correlation of the two prompts over the rows, its numerator
    both · neither - only_first · only_second brought n/2 nearer to 0 where it is positive.
    Raises ValueError for impossible counts.
    """
    counts = (num_both, num_only_first, num_only_second, num_neither)
    for name, count in zip(("both", "only_first", "only_second", "neither"), counts, strict=True):
        _check_count(f"num_{name}", count)
    n = sum(counts)
    first, second = num_both + num_only_first, num_both + num_only_second
    (low1, high1), (low2, high2) = wilson_interval(first, n), wilson_interval(second, n)
    agreement: float = num_both * num_neither - num_only_first * num_only_second
    if agreement > 0:
        agreement = max(0.0, agreement - n / 2)
    spread = first * (n - first) * second * (n - second)
    phi = agreement / math.sqrt(spread) if spread else 0.0
    below, above = first / n - low1, high1 - first / n
    below2, above2 = second / n - low2, high2 - second / n
    difference = (num_only_first - num_only_second) / n
    low = difference - math.sqrt(max(0.0, below**2 - 2 * phi * below * above2 + above2**2))
    high = difference + math.sqrt(max(0.0, above**2 - 2 * phi * above * below2 + below2**2))
    return low, high


def is_sure(p_value: float | None) -> bool:
    """Whether a difference is more than chance explains; no p says that it is not."""
    return p_value is not None and p_value < _SURE


def p_text(p_value: float) -> str:
    """A p value for a reader."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def points_text(difference: float) -> str:
    """A difference of shares, in points with its sign."""
    return signed(100 * difference, 1)


def signed(value: float, digits: int) -> str:
    """A number with its sign, a minus as printers set it; none before what rounds to 0."""
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else f"{0:.{digits}f}"


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(
            f"{name}: got {quoted(value)}; expected a whole number of rows, 0 or more; pass a count"
        )
