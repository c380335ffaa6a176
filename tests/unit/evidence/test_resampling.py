import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.evidence.resampling import Clusters, ceiling, holm, ranks, spearman

SMALL = st.lists(st.integers(0, 5), min_size=2, max_size=9)


@given(SMALL)
def test_ranks_are_mean_places_among_the_sorted(values):
    for value, rank in zip(values, ranks(values), strict=True):
        places = [i for i, other in enumerate(sorted(values), 1) if other == value]
        assert rank == sum(places) / len(places)


@given(st.permutations(range(6)), st.permutations(range(6)))
def test_spearman_without_ties_is_the_textbook_formula(first, second):
    squares = sum((a - b) ** 2 for a, b in zip(first, second, strict=True))
    assert spearman(first, second) == pytest.approx(1 - 6 * squares / (6 * 35))


@given(SMALL)
def test_spearman_with_ties_is_the_correlation_of_ranks(values):
    other = [v * v % 4 for v in values]
    if len(set(values)) > 1 and len(set(other)) > 1:
        expected = np.corrcoef(ranks(values), ranks(other))[0, 1]
        assert spearman(values, other) == pytest.approx(expected)


def test_what_ranks_nothing_correlates_with_nothing():
    assert spearman([1, 1, 1], [1, 2, 3]) == 0
    np.testing.assert_array_equal(spearman([[1, 2], [2, 1]], [[1, 2], [1, 2]]), [1, -1])


def test_the_ceiling_is_the_root_of_the_corrected_reliability():
    assert ceiling(1.0) == 1
    assert ceiling(0.5) == pytest.approx(math.sqrt(2 / 3))
    assert ceiling(-0.2) == ceiling(-math.inf) == 0
    assert ceiling(math.inf) == 1


def test_holm_steps_down_and_never_falls():
    # by hand: 4 * 0.01, 3 * 0.02, 2 * 0.03, then the largest so far
    assert holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_clusters_are_drawn_whole():
    source = np.random.default_rng(1)
    clusters = np.repeat(np.arange(10), 30)
    shared = source.normal(0, 1, 10)[clusters]
    values = shared + 0.01 * source.normal(0, 1, 300)
    spread = [Clusters(names).estimate(values) for names in (clusters.tolist(), list(range(300)))]
    widths = [found.high - found.low for found in spread]
    # 30 values of a cluster say what one says: about sqrt(30) times as wide as 300 of their own
    assert 4 < widths[0] / widths[1] < 12
    assert spread[0].mean == pytest.approx(values.mean())


def test_intervals_hold_and_p_values_are_small_as_often_as_they_say():
    source = np.random.default_rng(18)
    clusters = Clusters([i // 6 for i in range(72)])
    found = []
    for _ in range(150):
        shared = np.repeat(source.normal(0, 0.2, 12), 6)
        found.append(clusters.estimate(shared + source.normal(0, 0.4, 72)))
    assert np.mean([f.low <= 0 <= f.high for f in found]) == pytest.approx(0.95, abs=0.05)
    assert np.mean([f.p_value < 0.05 for f in found]) == pytest.approx(0.05, abs=0.05)
    assert np.mean([f.p_value < 0.5 for f in found]) == pytest.approx(0.5, abs=0.12)


def test_clusters_of_several_sizes_weigh_by_their_places():
    found = Clusters(["a", "b", "b"]).estimate([1.0, 3.0, 5.0])
    assert found.mean == 3.0
    assert (found.low, found.high) == (-math.inf, math.inf)  # two say nothing of their spread
    assert found.p_value == pytest.approx(0.5, abs=0.02)  # both signs alike: 9 is as far as 9
    many = Clusters([*"abcde", *"eeee"]).estimate([1, 2, 1, 2, *[5.0] * 5])
    assert many.mean == pytest.approx(31 / 9)
    assert many.low < 2 < many.mean < many.high


def test_what_cannot_be_told_is_said_so():
    one = Clusters(["a", "a"]).estimate([1.0, 2.0])
    assert (one.mean, one.low, one.high, one.p_value) == (1.5, -math.inf, math.inf, 1.0)
    same = Clusters([*"abcd"]).estimate([0.0] * 4)
    assert (same.mean, same.low, same.high, same.p_value) == (0, 0, 0, 1)


@pytest.mark.parametrize("sign", [1, -1])
def test_what_few_clusters_say_is_open_on_the_side_of_the_others(sign):
    """Of twelve, one or two differ, which 35% or 11% of the draws leave out; of four, 0.4%."""
    for others in ([3.0], [3.0, 1.0]):
        values = sign * np.array([*others, *[0.0] * (12 - len(others))])
        found = Clusters(range(12)).estimate(values)
        ends = (found.low, found.high) if sign > 0 else (-found.high, -found.low)
        assert ends[1] == math.inf
        assert -math.inf < ends[0] < sign * found.mean
    four = Clusters(range(12)).estimate(sign * np.array([3.0, 1.0, 2.0, 1.5, *[0.0] * 8]))
    assert math.isfinite(four.low)
    assert math.isfinite(four.high)


def test_an_estimate_is_the_same_each_time():
    values = np.random.default_rng(0).normal(0, 1, 12)
    names = [i // 3 for i in range(12)]
    assert Clusters(names).estimate(values) == Clusters(names).estimate(values)
