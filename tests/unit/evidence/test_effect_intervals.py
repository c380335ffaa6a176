import math
import statistics

import numpy as np
import pytest

from benchmarks.evidence.effect_intervals import (
    bootstrap_interval,
    pooled_interval,
    t_quantile,
)

# Student's two-sided 95% points, from a printed table.
TABLE = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    7: 2.365,
    8: 2.306,
    21: 2.080,
    120: 1.980,
}


@pytest.mark.parametrize(("freedom", "wanted"), TABLE.items())
def test_quantiles_are_those_of_a_printed_table(freedom, wanted):
    assert t_quantile(freedom) == pytest.approx(wanted, abs=6e-4)


@pytest.mark.parametrize(("freedom", "wanted"), [(1, 63.657), (2, 9.925), (7, 3.499), (30, 2.750)])
def test_quantiles_of_another_confidence(freedom, wanted):
    assert t_quantile(freedom, 0.99) == pytest.approx(wanted, abs=6e-4)


def test_one_group_gives_the_plain_t_interval():
    values = [0.01, 0.04, -0.02, 0.08, 0.03]
    found = pooled_interval([values])
    half = 2.7764 * statistics.stdev(values) / math.sqrt(5)
    assert found.mean == pytest.approx(0.028)
    assert found.half_width == pytest.approx(half, rel=1e-4)
    assert (found.low, found.high) == pytest.approx((0.028 - half, 0.028 + half), abs=1e-5)


def test_equal_groups_give_the_textbook_degrees_of_freedom():
    """Same variance and size: T (n − 1) degrees, and the variance of one group over T."""
    group = [-1.0, 0.0, 1.0]
    found = pooled_interval([group, [x + 5 for x in group], [x - 2 for x in group]])
    assert found.mean == pytest.approx(1.0)
    assert found.half_width == pytest.approx(2.4469 * math.sqrt(1 / 3 / 3), rel=1e-4)  # 6 degrees


def test_unequal_groups_follow_satterthwaite():
    wide, narrow = [-10.0, 0.0, 10.0, 4.0], [1.0, 1.1, 0.9, 1.0, 1.05]
    v1, v2 = statistics.variance(wide) / 4, statistics.variance(narrow) / 5
    freedom = int((v1 + v2) ** 2 / (v1**2 / 3 + v2**2 / 4))
    assert freedom == 3
    found = pooled_interval([wide, narrow])
    assert found.half_width == pytest.approx(3.1824 * math.sqrt(v1 + v2) / 2, rel=1e-4)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    source = np.random.default_rng(0)
    spreads = (0.02, 0.05, 0.09)
    trials = 2000
    held = 0
    for _ in range(trials):
        found = pooled_interval([list(source.normal(0.03, s, 8)) for s in spreads])
        held += found.low <= 0.03 <= found.high
    assert 0.935 < held / trials < 0.975


@pytest.mark.parametrize("make", [pooled_interval, bootstrap_interval])
@pytest.mark.parametrize("groups", [[], [[]], [[0.1]], [[0.1, 0.2], [0.3]]])
def test_a_seed_alone_has_no_interval(make, groups):
    assert make(groups) is None


@pytest.mark.parametrize("make", [pooled_interval, bootstrap_interval])
def test_figures_that_agree_say_nothing_of_their_spread(make):
    assert make([[0.25, 0.25], [0.5, 0.5, 0.5]]) is None
    assert make([[0.58 - 0.50, 0.51 - 0.43]]) is None  # apart by rounding
    assert make([[0.25, 0.25], [0.5, 0.5, 0.6]]).half_width > 0


def test_the_bootstrap_redraws_seeds_in_each_task():
    """Tasks apart from each other add nothing to the width."""
    source = np.random.default_rng(1)
    groups = [list(source.normal(mean, 0.05, 40)) for mean in (0.0, 10.0)]
    found, by_t = bootstrap_interval(groups), pooled_interval(groups)
    assert found.mean == by_t.mean
    assert found.low == pytest.approx(by_t.low, abs=0.002)
    assert found.high == pytest.approx(by_t.high, abs=0.002)
    assert bootstrap_interval(groups) == found
