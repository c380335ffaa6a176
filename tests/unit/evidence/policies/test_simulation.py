"""The model is found again in chains drawn from it, and searches simulated from it are known."""

import dataclasses

import numpy as np
import pytest

from benchmarks.evidence.policies.model import PlaceModel, SeenPlace, fit, outcomes
from benchmarks.evidence.policies.named import POLICIES
from benchmarks.evidence.policies.rules import Policy, Prior
from benchmarks.evidence.policies.simulation import LEAST_ERROR, NUM_NEAREST, simulate
from tests.unit.evidence.policies.made_up import chain, drawn_chains, place


def model_of(deviation=0.06, beyond=0.0, **values):
    """Thirty places, of 7 candidates each, at which nothing was gained."""
    source = np.random.default_rng(9)
    spreads = [deviation * source.standard_normal(7) for _ in range(30)]
    known = {
        "initial_error": 0.5,
        "first_effect": 0.02,
        "pull": 0.2,
        "prior": Prior(0.03, deviation**2),
        "row_share": 0.4,
        "signal_correlation": 0.0,
        "num_positions": 17,
        "seen": tuple(SeenPlace(0.0, beyond, spread - spread.mean()) for spread in spreads),
    }
    return PlaceModel(**known | values)


MODEL = model_of()


def gains(policy, model=MODEL, budget=3000, num=12):
    errors = [simulate(policy, model, [budget], seed)[0] for seed in range(num)]
    return model.initial_error - np.array(errors)


@pytest.mark.parametrize("num_candidates", [5, 7])
def test_the_signals_correlation_does_not_shrink_with_the_number_of_candidates(num_candidates):
    model = fit(drawn_chains(200, correlation=0.8, num_candidates=num_candidates, num_rows=400))
    assert model.signal_correlation == pytest.approx(0.8, abs=0.06)


def test_the_model_is_found_again():
    model = fit(drawn_chains(150, correlation=0.4))
    assert model.initial_error == pytest.approx(0.5, abs=0.02)
    assert model.first_effect == pytest.approx(0.03, abs=0.02)
    assert model.pull == pytest.approx(0.5, abs=0.1)
    assert model.prior.variance**0.5 == pytest.approx(0.08, abs=0.008)
    assert model.row_share == pytest.approx(0.4, abs=0.05)
    assert model.signal_correlation == pytest.approx(0.4, abs=0.08)
    assert model.num_positions == 10
    assert len(model.seen) == 150 * 6
    spreads = np.array([place.spread for place in model.seen])
    assert spreads.mean(1) == pytest.approx(np.zeros(len(spreads)))
    assert spreads.var(1, ddof=1).mean() ** 0.5 == pytest.approx(0.08, abs=0.008)
    beyond = np.array([place.beyond for place in model.seen])
    assert beyond.mean() == pytest.approx(0.0, abs=1e-9)
    # A mean of 7 effects deviates by what is left of theirs, 0.08 / √7.
    assert beyond.std() == pytest.approx(0.03, abs=0.012)
    assert model.seen[0].gained == 0 != model.seen[5].gained


def test_a_model_without_effects_is_found_again():
    model = fit(drawn_chains(60, effect=0.0, deviation=0.0, pull=0.0, row_share=0.0))
    assert model.prior.mean == pytest.approx(0.0, abs=0.02)
    assert model.prior.variance**0.5 < 0.02
    assert model.row_share < 0.05
    assert 0.1 <= model.pull <= 1


def test_a_pull_is_at_least_that_of_effects_that_add_up():
    """Nothing was gained anywhere: the slope is not known."""
    model = fit(drawn_chains(10, accept=False))
    assert 1 / 10 <= model.pull <= 1


def test_candidates_of_one_place_are_enough_to_fit():
    own = np.random.default_rng(0).random((2, 160)) < 0.5
    model = fit([chain([place(own)])])
    assert (model.prior.variance, model.seen[0].spread.tolist()) == (0, [0])
    with pytest.raises(ValueError, match="expected one place at least"):
        fit([chain([])])


@pytest.mark.parametrize("row_share", [0.0, 0.4, 1.0])
def test_rows_are_shared_as_the_model_says(row_share):
    source, (p, q) = np.random.default_rng(0), (0.3, 0.6)
    rows = source.random(40_000)
    is_wrong = outcomes(source, np.array([p, q]), rows, row_share)
    assert is_wrong.mean(1) == pytest.approx([p, q], abs=0.01)
    both = p * q + row_share * (p - p * q)
    assert (is_wrong[0] & is_wrong[1]).mean() == pytest.approx(both, abs=0.01)


@pytest.mark.parametrize("policy", POLICIES.values())
def test_without_effects_no_search_gains(policy):
    model = model_of(0.0, first_effect=0.0, pull=0.0)
    assert simulate(policy, model, [500, 1500], 0) == [0.5, 0.5]


def test_large_effects_are_found():
    model = model_of(0.2, first_effect=0.0)
    assert gains(Policy()).mean() > 0.03
    assert gains(Policy(), model).mean() > gains(Policy()).mean() + 0.1


def test_the_best_of_three_is_worse_where_hardly_any_is_better():
    model = model_of(first_effect=0.1)
    assert gains(Policy(accept="best"), model).mean() < gains(Policy(), model).mean() - 0.1


def test_a_step_draws_a_place_where_as_much_was_gained():
    """Where nothing was gained all are better, and behind that worse."""
    better, worse = SeenPlace(0.0, -0.1, np.zeros(1)), SeenPlace(0.1, 0.3, np.zeros(1))
    model = model_of(
        first_effect=0.0, pull=0.0, seen=(better,) * NUM_NEAREST + (worse,) * NUM_NEAREST
    )
    assert simulate(Policy(), model, [2000], 0) == [pytest.approx(0.4)]
    early = dataclasses.replace(model, seen=(better,) * NUM_NEAREST)
    assert simulate(Policy(), early, [2000], 0)[0] < 0.3


def test_a_step_draws_any_of_the_places_that_are_as_near():
    """At first nothing is gained, as at the first place of each chain: not those of one task."""
    better, worse = SeenPlace(0.0, -0.1, np.zeros(1)), SeenPlace(0.0, 0.3, np.zeros(1))
    ended = set()
    for order in ((better, worse), (worse, better)):
        seen = tuple(place for place in order for _ in range(NUM_NEAREST))
        model = model_of(first_effect=0.0, pull=0.0, seen=seen)
        first = [simulate(Policy(accept="best"), model, [51], seed)[0] for seed in range(100)]
        assert 30 <= sum(error == pytest.approx(0.4) for error in first) <= 70
        ended |= {round(error, 6) for error in first}
    assert ended == {0.4, 0.8}


def test_what_was_gained_pulls_back():
    assert (
        gains(Policy(), model_of(pull=1.0)).mean() < gains(Policy(), model_of(pull=0.0)).mean() / 2
    )


def test_a_signal_that_knows_is_worth_something():
    model = model_of(signal_correlation=1.0)
    by_signal, by_chance = Policy(shortlist_size=1), Policy(shortlist_size=1, signal="random")
    assert gains(by_signal, model).mean() > gains(by_chance, model).mean() + 0.03
    assert (gains(by_signal) == gains(by_chance)).all()  # the signal of the model knows nothing


def test_errors_stay_where_errors_can_be():
    model = model_of(1.0, pull=0.0)
    errors = simulate(Policy(), model, [100, 10**9], 0)
    assert errors[-1] == LEAST_ERROR
    assert all(LEAST_ERROR <= error <= 1 - LEAST_ERROR for error in errors)


def test_budgets_see_one_search():
    whole = simulate(Policy(), MODEL, [200, 1000, 3000], 3)
    assert whole == [simulate(Policy(), MODEL, [budget], 3)[0] for budget in (200, 1000, 3000)]
    assert whole != simulate(Policy(), MODEL, [200, 1000, 3000], 4)


@pytest.mark.parametrize(("fresh", "num_steps"), [(False, 5), (True, 4)])
def test_fresh_rows_cost_those_of_the_incumbent(fresh, num_steps):
    """A step takes 2 rollouts, the first rows 2, and those of a new sweep 2 more."""
    model = model_of(0.0, num_positions=3, first_effect=-0.05, pull=0.0)
    policy = Policy(num_rows=2, shortlist_size=1, accept="best", fresh_rows=fresh)
    assert simulate(policy, model, [12], 0) == [pytest.approx(0.5 - 0.05 * num_steps)]
