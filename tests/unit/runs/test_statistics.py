import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greater_fast.runs.statistics import (
    is_sure,
    mcnemar_exact,
    mean_interval,
    newcombe_interval,
    p_text,
    points_text,
    sign_flip_test,
    wilson_interval,
)

Z_95 = 1.959963984540054
# correct, rows, confidence and the interval, from scipy's binomtest(…).proportion_ci(…, "wilson")
WILSON = [
    (0, 10, 0.95, 0.0, 0.27753279986288926),
    (7, 10, 0.95, 0.39677814746114526, 0.892208732593699),
    (10, 10, 0.95, 0.7224672001371109, 1.0),
    (82, 100, 0.95, 0.7333264161369927, 0.8829977450105365),
    (1091, 1319, 0.95, 0.8057931571246294, 0.8465903875893078),
    (50, 100, 0.99, 0.37527962504483986, 0.6247203749551602),
    (1, 1, 0.8, 0.3784475032253529, 1.0),
]
# rows only the first and only the second prompt gets right, and scipy's binomtest(…).pvalue
MCNEMAR = [
    (0, 0, 1.0),
    (1, 0, 1.0),
    (5, 0, 0.0625),
    (10, 2, 0.03857421875),
    (3, 8, 0.2265625),
    (6, 6, 1.0),
    (25, 40, 0.08168153394154003),
    (1, 12, 0.00341796875),
]
# both, only first, only second, neither, and the interval as published, to so many places:
# Newcombe 1998; Fagerland, Lydersen and Laake 2014 (stem cells, consolidation therapy)
NEWCOMBE = [
    (20, 12, 2, 16, 0.0562, 0.3292, 4),
    (1, 1, 7, 12, -0.507, -0.026, 3),
    (59, 6, 16, 80, -0.1186, -0.0046, 4),
]


@pytest.mark.parametrize(("num_correct", "num_rows", "confidence", "low", "high"), WILSON)
def test_wilson_known_values(num_correct, num_rows, confidence, low, high):
    interval = wilson_interval(num_correct, num_rows, confidence)
    assert interval == pytest.approx((low, high), abs=1e-12)


def test_wilson_is_95_percent_unless_told():
    assert wilson_interval(7, 20) == wilson_interval(7, 20, 0.95)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_ends_solve_the_score_equation(counts):
    num_correct, num_rows = counts
    low, high = wilson_interval(num_correct, num_rows)
    proportion = num_correct / num_rows
    assert 0 <= low <= proportion <= high <= 1
    assert (low == 0) == (num_correct == 0)
    assert (high == 1) == (num_correct == num_rows)
    for end in (low, high):
        distance = (proportion - end) ** 2 * num_rows
        assert distance == pytest.approx(Z_95**2 * end * (1 - end), rel=1e-6, abs=1e-12)
    mirrored = wilson_interval(num_rows - num_correct, num_rows)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(
    ("num_correct", "num_rows", "message"),
    [
        (0, 0, "got 0 correct of 0 rows; expected at least one row"),
        (3, 2, "got 3 correct of 2 rows; expected at least one row, and no more correct than rows"),
        (-1, 2, "num_correct: got -1; expected a whole number of rows, 0 or more"),
        (1, -2, "num_rows: got -2; expected a whole number"),
        (0.5, 2, "num_correct: got 0.5; expected a whole number"),
        (True, 2, "num_correct: got True; expected a whole number"),
    ],
)
def test_wilson_impossible_counts(num_correct, num_rows, message):
    with pytest.raises(ValueError, match="got") as caught:
        wilson_interval(num_correct, num_rows)
    assert message in str(caught.value)


@pytest.mark.parametrize("confidence", [0, 1, -0.5, 95, math.nan])
def test_wilson_impossible_confidence(confidence):
    with pytest.raises(ValueError, match=r"confidence: got .*; expected above 0 and below 1; pass"):
        wilson_interval(1, 2, confidence)


@pytest.mark.parametrize(("first", "second", "p"), MCNEMAR)
def test_mcnemar_known_values(first, second, p):
    assert mcnemar_exact(first, second) == pytest.approx(p, rel=1e-12)
    assert mcnemar_exact(second, first) == mcnemar_exact(first, second)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_sums_all_outcomes_at_least_as_uneven(first, second):
    total = first + second
    ways = sum(
        math.comb(total, k) for k in range(total + 1) if abs(2 * k - total) >= abs(first - second)
    )
    assert mcnemar_exact(first, second) == float(Fraction(ways, 2**total))


def test_mcnemar_of_many_rows():
    assert mcnemar_exact(5000, 5000) == 1.0
    assert 0 < mcnemar_exact(4900, 5100) < 0.05
    assert mcnemar_exact(0, 5000) == 0.0


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (-1, 2, "num_only_first: got -1; expected a whole number of rows, 0 or more; pass a count"),
        (1, 2.0, "num_only_second: got 2.0; expected a whole number"),
    ],
)
def test_mcnemar_impossible_counts(first, second, message):
    with pytest.raises(ValueError, match="got") as caught:
        mcnemar_exact(first, second)
    assert message in str(caught.value)


@pytest.mark.parametrize(("both", "first", "second", "neither", "low", "high", "places"), NEWCOMBE)
def test_newcombe_published_values(both, first, second, neither, low, high, places):
    found = newcombe_interval(both, first, second, neither)
    assert [round(end, places) for end in found] == [low, high]


CELLS = st.lists(st.integers(0, 300), min_size=4, max_size=4).filter(any)


@given(CELLS)
def test_newcombe_holds_the_difference_and_turns_with_it(cells):
    both, first, second, neither = cells
    n = sum(cells)
    low, high = newcombe_interval(both, first, second, neither)
    assert -1 - 1e-12 <= low <= (first - second) / n <= high <= 1 + 1e-12
    turned = newcombe_interval(both, second, first, neither)
    assert turned == pytest.approx((-high, -low), abs=1e-12)
    error_rates = newcombe_interval(neither, second, first, both)
    assert error_rates == pytest.approx((-high, -low), abs=1e-9)


def test_newcombe_of_prompts_that_agree_by_chance_alone_adds_squares():
    low, high = newcombe_interval(4, 4, 4, 4)
    below, above = wilson_interval(8, 16)
    width = math.hypot(0.5 - below, above - 0.5)
    assert (low, high) == pytest.approx((-width, width), abs=1e-12)


def test_newcombe_narrows_with_agreement():
    assert newcombe_interval(45, 5, 5, 45)[1] < newcombe_interval(25, 25, 25, 25)[1]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ((0, 0, 0, 0), "got 0 correct of 0 rows"),
        ((1, -1, 0, 0), "num_only_first: got -1"),
        ((1, 0, 0, 0.5), "num_neither: got 0.5"),
    ],
)
def test_newcombe_impossible_counts(cells, message):
    with pytest.raises(ValueError, match=message):
        newcombe_interval(*cells)


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=200))
def test_a_mean_of_yes_and_no_has_wilsons_interval(values):
    expected = wilson_interval(int(sum(values)), len(values))
    assert mean_interval(values) == pytest.approx(expected, abs=1e-9)


SHARES = st.integers(0, 64).map(lambda count: count / 64)  # 1 - share is exact


@given(st.lists(SHARES, min_size=1, max_size=60))
def test_a_mean_lies_in_its_interval_which_turns_with_it(values):
    low, high = mean_interval(values)
    mean = math.fsum(values) / len(values)
    assert 0 <= low <= mean + 1e-12
    assert mean - 1e-12 <= high <= 1
    assert mean_interval([1 - v for v in values]) == pytest.approx((1 - high, 1 - low), abs=1e-9)
    assert mean_interval(values, 0.5)[1] <= high + 1e-12


def test_an_interval_of_a_mean_solves_its_equation():
    """Both ends are where the mean is z standard errors away: (m - x)^2 = z^2 phi x (1 - x) / n."""
    values = [0.2, 0.4, 0.4, 0.9, 0.6]
    mean, n = 0.5, 5
    variance = sum((v - mean) ** 2 for v in values) / n
    phi = (n * variance / 0.25 + 1) / (n + 1)
    for end in mean_interval(values):
        assert (mean - end) ** 2 == pytest.approx(Z_95**2 * phi * end * (1 - end) / n)


def test_equal_values_are_not_endlessly_sure():
    few, many = mean_interval([0.5] * 5), mean_interval([0.5] * 500)
    assert few[1] - few[0] > 0.25
    assert 0.001 < many[1] - many[0] < 0.01


@pytest.mark.parametrize("num_rows", [20, 100])
@pytest.mark.parametrize("shape", [(2, 2), (0.3, 0.6), (8, 1), "half"])
def test_intervals_of_a_mean_cover_it(num_rows, shape):
    """Of 2000 samples each; a half of the last kind is 0 or 1, the rest between."""
    source = np.random.default_rng(1)
    if shape == "half":
        drawn = source.random((2000, num_rows))
        drawn = np.where(drawn < 0.25, 0.0, np.where(drawn < 0.5, 1.0, drawn))
        mean = 0.25 + 0.5 * 0.75
    else:
        drawn = source.beta(*shape, (2000, num_rows))
        mean = shape[0] / sum(shape)
    found = [mean_interval(row.tolist()) for row in drawn]
    covered = sum(low <= mean <= high for low, high in found) / len(found)
    assert 0.93 <= covered <= 0.995
    width = sum(high - low for low, high in found) / len(found)
    least = 2 * Z_95 * drawn.std() / math.sqrt(num_rows)
    assert width <= 1.25 * least


@pytest.mark.parametrize("values", [[], [0.5, 1.5], [-0.1], [math.nan]])
def test_no_interval_of_what_is_no_share(values):
    with pytest.raises(ValueError, match="expected numbers from 0 to 1"):
        mean_interval(values)


@given(st.integers(0, 8), st.integers(0, 8), st.integers(0, 3))
def test_sign_flips_of_yes_and_no_are_mcnemars_test(first, second, ties):
    differences = [1.0] * first + [-1.0] * second + [0.0] * ties
    assert sign_flip_test(differences) == pytest.approx(mcnemar_exact(first, second), abs=1e-12)


@given(st.lists(st.sampled_from([-0.7, -0.3, -0.1, 0.0, 0.1, 0.3, 1.0]), max_size=9))
def test_sign_flips_count_all_ways(differences):
    """With exact tenths, zeros included."""
    tenths = [round(10 * d) for d in differences]
    ways = list(itertools.product((-1, 1), repeat=len(tenths)))
    sums = [abs(sum(s * d for s, d in zip(signs, tenths, strict=True))) for signs in ways]
    expected = sum(s >= abs(sum(tenths)) for s in sums) / len(ways)
    assert sign_flip_test(differences) == pytest.approx(expected, abs=1e-12)
    assert sign_flip_test([-d for d in differences]) == pytest.approx(expected, abs=1e-12)


def test_sign_flips_of_many_rows_are_drawn_the_same_each_time():
    values = [1.0] * 25 + [-1.0] * 40
    found = sign_flip_test(values)
    assert found == pytest.approx(mcnemar_exact(25, 40), abs=0.01)
    assert sign_flip_test(values) == found
    assert sign_flip_test([0.1] * 60) == pytest.approx(1 / 20_001)
    assert sign_flip_test([0.3, -0.3] * 20) == 1.0


@pytest.mark.parametrize(
    ("p_value", "sure", "text"),
    [
        (0.0, True, "p < 0.001"),
        (0.00099, True, "p < 0.001"),
        (0.001, True, "p = 0.001"),
        (0.0491, True, "p = 0.049"),
        (0.05, False, "p = 0.050"),
        (1.0, False, "p = 1.000"),
    ],
)
def test_a_p_value_is_never_written_as_none_at_all(p_value, sure, text):
    assert (is_sure(p_value), p_text(p_value)) == (sure, text)


def test_what_is_not_known_is_not_sure():
    assert not is_sure(None)


@pytest.mark.parametrize(
    ("difference", "text"),
    [(0.285, "+28.5"), (-0.285, "−28.5"), (0.0004, "0.0"), (-0.0004, "0.0"), (-1.0, "−100.0")],
)
def test_points_have_a_sign_where_they_are_any(difference, text):
    assert points_text(difference) == text
