import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.evidence.policies.rules import (
    Policy,
    Prior,
    Trial,
    decide,
    noise_variance,
    shrunk_difference,
    sign_test,
)
from greater_fast.search.racing import BET

PRIOR = Prior(0.02, 0.01)
matrices = st.integers(1, 4).flatmap(
    lambda num: st.lists(
        st.lists(st.booleans(), min_size=12, max_size=12), min_size=1 + num, max_size=1 + num
    )
)


def trial(is_wrong):
    is_wrong = np.array(is_wrong, bool)
    return Trial.of_errors(is_wrong, is_wrong.shape[1])


def slowly(policy, is_wrong, terms):
    """A step row by row: which prompt is kept, and how many rollouts that takes."""
    n, incumbent = policy.num_rows, is_wrong[0]
    bound = sum(terms[0]) / n
    best, lowest, num_rollouts = 0, math.inf, 0
    for number, own in list(enumerate(is_wrong))[1:]:
        wealth, is_out = 1.0, False
        for row in range(n):
            num_rollouts += 1
            if own[row] != incumbent[row]:
                wealth *= 1 + BET if own[row] else 1 - BET
            is_over = sum(terms[number][: row + 1]) / n > bound + 1e-6
            is_out = (is_over and policy.accept == "improve") or (
                policy.race > 0 and wealth >= 1 / policy.race and row < n - 1
            )
            if is_out:
                break
        objective = sum(terms[number]) / n
        if not is_out and objective < lowest:
            best, lowest = number, objective
    if best and policy.accept == "improve" and not lowest < bound - 1e-6:
        best = 0
    if best and policy.num_confirming:
        num_rollouts += 2 * policy.num_confirming
        if sum(is_wrong[best][n:]) >= sum(incumbent[n:]):
            best = 0
    return best, num_rollouts


@given(matrices, st.sampled_from(["improve", "best"]), st.sampled_from([0.0, 0.1, 0.5]))
@pytest.mark.parametrize("num_confirming", [0, 4])
def test_a_step_is_that_of_the_slow_one(num_confirming, is_wrong, accept, race):
    policy = Policy(
        num_rows=12 - num_confirming, accept=accept, race=race, num_confirming=num_confirming
    )
    terms = [
        [missed + 0.01 * ((number + row) % 3) for row, missed in enumerate(own[: policy.num_rows])]
        for number, own in enumerate(is_wrong)
    ]
    found = decide(policy, Trial(np.array(is_wrong), np.array(terms)), PRIOR)
    assert (found.winner, found.num_rollouts) == slowly(policy, is_wrong, terms)


def test_equals_go_to_the_incumbent_then_to_the_first():
    same = [[True, False]] * 3
    assert decide(Policy(num_rows=2), trial(same), PRIOR).winner == 0
    assert decide(Policy(num_rows=2, accept="best"), trial(same), PRIOR).winner == 1
    better = [[True, True], [True, False], [False, True]]
    assert decide(Policy(num_rows=2), trial(better), PRIOR).winner == 1


def test_losses_are_compared_where_they_are_the_objective():
    """The second candidate has the lower loss, the first fewer errors."""
    is_wrong = np.array([[True, True], [False, False], [True, False]])
    losses = np.array([[1.0, 1.0], [0.9, 0.9], [0.1, 0.2]])
    policy = Policy(num_rows=2, objective="loss")
    found = decide(policy, Trial(is_wrong, losses), PRIOR)
    assert (found.winner, found.num_rollouts) == (2, 4)
    losses[2, 0] = 2.1  # more at its first row than the incumbent at both
    found = decide(policy, Trial(is_wrong, losses), PRIOR)
    assert (found.winner, found.num_rollouts) == (1, 3)


def test_sign_test_counts_all_outcomes():
    for wins, losses in product(range(6), range(6)):
        flips = list(product((0, 1), repeat=wins + losses))
        share = sum(sum(own) >= wins for own in flips) / len(flips)
        assert sign_test(wins, losses) == pytest.approx(share)


@pytest.mark.parametrize("level", [0.05, 0.1, 0.3])
def test_a_candidate_as_good_is_accepted_at_the_level_at_most(level):
    """Exactly, over all ways in which the rows where two differ can fall."""
    for num_differing in (1, 4, 9):
        ways = list(product((False, True), repeat=num_differing))
        policy = Policy(num_rows=num_differing, level=level)
        accepted = sum(
            decide(policy, trial([np.logical_not(own), own]), PRIOR).winner for own in ways
        )
        assert accepted / len(ways) <= level
        if num_differing == 9:
            assert accepted > 0


def test_a_level_of_one_is_no_test():
    own = [[True] + [False] * 9, [False] * 10]
    assert decide(Policy(num_rows=10), trial(own), PRIOR).winner == 1
    assert decide(Policy(num_rows=10, level=0.3), trial(own), PRIOR).winner == 0


def test_noise_is_half_the_squared_difference_of_pairs():
    is_wrong = np.random.default_rng(0).random((5, 40)) < 0.4
    pairs = [(a != b).mean() / 40 / 2 for a, b in combinations(is_wrong, 2)]
    assert noise_variance(is_wrong) == pytest.approx(np.mean(pairs))
    assert noise_variance(is_wrong[:1]) == 0


def test_noise_is_the_variance_that_equal_prompts_have():
    source = np.random.default_rng(1)
    drawn = [source.random((6, 50)) < source.random(50) for _ in range(2000)]
    variances = [own.mean(1).var(ddof=1) for own in drawn]
    assert np.mean([noise_variance(own) for own in drawn]) == pytest.approx(
        np.mean(variances), rel=0.05
    )


def test_a_difference_shrunk_by_the_prior_is_the_posterior_mean():
    is_wrong = np.zeros((2, 100), bool)
    is_wrong[0, :30], is_wrong[1, 20:40] = True, True  # 10 points better, 40 rows differ less 10
    noise = (is_wrong[0] != is_wrong[1]).mean() / 100
    precisions = np.array([1 / 0.01, 1 / noise])
    expected = precisions @ [0.02, -0.1] / precisions.sum()
    assert shrunk_difference("prior", is_wrong, 1, PRIOR) == pytest.approx(expected)
    assert shrunk_difference("prior", is_wrong, 1, Prior(0.02, 0.0)) == 0.02


def test_a_difference_shrunk_towards_the_places_mean():
    is_wrong = np.random.default_rng(3).random((6, 60)) < np.linspace(0.2, 0.8, 6)[:, None]
    rates = is_wrong.mean(1)
    differences, noise = rates[1:] - rates[0], noise_variance(is_wrong[1:])
    spread = ((differences - differences.mean()) ** 2).sum()
    expected = differences.mean() + (1 - 2 * noise / spread) * (differences[2] - differences.mean())
    assert shrunk_difference("place", is_wrong, 3, PRIOR) == pytest.approx(expected)
    few = is_wrong[:4]
    assert shrunk_difference("place", few, 3, PRIOR) == pytest.approx(differences[2])


def test_shrinkage_by_james_and_stein_lowers_the_squared_error():
    source = np.random.default_rng(5)
    plain, shrunk = [], []
    for _ in range(300):
        errors = np.clip(0.5 + 0.05 * source.standard_normal(9), 0, 1)
        is_wrong = source.random((9, 40)) < errors[:, None]
        differences = is_wrong[1:].mean(1) - is_wrong[0].mean()
        own = [shrunk_difference("place", is_wrong, k, PRIOR) for k in range(1, 9)]
        truth = errors[1:] - is_wrong[0].mean()  # the incumbent's own noise is beside the point
        plain.append(((differences - truth) ** 2).sum())
        shrunk.append(((own - truth) ** 2).sum())
    assert np.mean(shrunk) < 0.7 * np.mean(plain)


@pytest.mark.parametrize(("mean", "is_kept"), [(0.2, False), (-0.2, True)])
def test_a_small_gain_is_as_good_as_the_prior_has_it(mean, is_kept):
    own = [[True] + [False] * 9, [False] * 10]
    found = decide(Policy(num_rows=10, shrinkage="prior"), trial(own), Prior(mean, 0.001))
    assert (found.winner == 1) == is_kept
    assert found.num_rollouts == 10
