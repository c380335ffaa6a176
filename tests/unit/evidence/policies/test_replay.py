import dataclasses
import math

import numpy as np
import pytest

from benchmarks.evidence.policies.named import POLICIES
from benchmarks.evidence.policies.replay import (
    NUM_SPARE,
    is_possible,
    priors_of,
    replay,
    shortlist,
)
from benchmarks.evidence.policies.rules import Policy
from greater_fast.search.racing import BET
from tests.unit.evidence.policies.made_up import (
    NUM_SCORED,
    NUM_SELECTION,
    SCORES,
    chain,
    drawn_chains,
    place,
)

NUM_ROWS = 160
LOST_AFTER = math.ceil(math.log(5) / math.log(1 + BET))  # rows in a row, at alpha 0.2
NLL = 4.0  # of each prompt on each row
# Errors in a row, each with its fluency, that are over that of 50 rows.
GIVEN_UP_AFTER = math.floor(50 * 0.02 * NLL / (1 + 0.02 * NLL)) + 1
ALL = Policy(shortlist_size=None)


def chains_of(*matrices, **given):
    return [chain([place(own, **given)], seed=seed) for seed, own in enumerate(matrices)]


def equally_good(seed, rate=0.5, num=8):
    return np.random.default_rng(seed).random((num, NUM_ROWS)) < rate


@pytest.mark.parametrize("name", POLICIES)
def test_candidates_that_answer_alike_change_nothing(name):
    policy = POLICIES[name]
    own = np.tile(equally_good(0)[:1], (8, 1))
    (effect,) = replay(chains_of(own), policy, num_splits=3)
    assert effect.change == 0
    assert effect.share_changed == (policy.accept == "best")


@pytest.mark.parametrize(
    "policy",
    [Policy(), ALL, Policy(accept="best"), Policy(fresh_rows=True), Policy(num_confirming=50)],
)
def test_no_policy_gains_where_all_are_equally_good(policy):
    effects = replay(chains_of(*map(equally_good, range(400))), policy, num_splits=2)
    changes = np.array([effect.change for effect in effects])
    assert abs(changes.mean()) < 4 * changes.std() / len(changes) ** 0.5
    assert np.mean([effect.share_changed for effect in effects]) > 0.1


@pytest.mark.parametrize("name", POLICIES)
def test_a_candidate_that_is_far_better_is_kept(name):
    """Every policy finds it that tries it: here by a signal that knows."""
    policy = POLICIES[name]
    if policy.signal in ("random", "proposal log-probability"):
        policy = dataclasses.replace(policy, shortlist_size=None)
    own = equally_good(1, 0.7)
    own[4] = np.random.default_rng(2).random(NUM_ROWS) < 0.05
    knows = np.where(np.arange(1, 8) == 4, -1.0, 0.0) * np.ones((NUM_SCORED, 1))
    scores = dict.fromkeys(SCORES, knows)
    (effect,) = replay(chains_of(own, scores=scores), policy, num_splits=4)
    assert effect.share_changed == 1
    assert effect.change == pytest.approx(-0.65, abs=0.1)


def test_an_incumbent_chosen_for_its_luck_is_seen_on_fresh_rows_alone():
    """It is right on the rows it was chosen on, and on no other; candidates on half of all."""
    own = equally_good(3)
    own[0] = np.arange(NUM_ROWS) >= NUM_SELECTION
    (kept,) = replay(chains_of(own), Policy(), num_splits=3)
    assert (kept.change, kept.share_changed) == (0, 0)
    for policy in (Policy(fresh_rows=True), Policy(fresh_rows=True, num_rows=16)):
        (changed,) = replay(chains_of(own), policy, num_splits=3)
        assert changed.share_changed == 1
        assert changed.change == pytest.approx(-0.5, abs=0.1)


def test_true_errors_are_of_rows_that_no_policy_saw():
    """The candidate is right where it was tried, and wrong elsewhere, which is seen in full."""
    trained = np.arange(NUM_ROWS) < NUM_SELECTION
    (effect,) = replay(chains_of([trained, ~trained]), Policy(), num_splits=2)
    assert (effect.change, effect.share_changed) == (1, 1)


@pytest.mark.parametrize(
    ("policy", "num_rollouts"),
    [
        (Policy(accept="best"), 150),
        (Policy(accept="best", shortlist_size=None, num_rows=16), 7 * 16),
        (Policy(accept="best", fresh_rows=True, num_rows=24), 4 * 24),
        (Policy(accept="best", num_rows=96), 3 * 96 + 46),
        (Policy(accept="best", num_confirming=24), 150 + 2 * 24),
        (Policy(), 3 * GIVEN_UP_AFTER),
        (Policy(race=0.2), 3 * min(GIVEN_UP_AFTER, LOST_AFTER)),
        (Policy(race=0.2, shrinkage="prior"), 3 * LOST_AFTER),
        (Policy(shrinkage="prior"), 150),
    ],
)
def test_rollouts_are_counted(policy, num_rollouts):
    """Each candidate is wrong on all rows, the incumbent on none: the first rows show it."""
    own = np.ones((8, NUM_ROWS), bool)
    own[0] = False
    (effect,) = replay(chains_of(own, prompt_nll=NLL), policy, num_splits=2)
    assert effect.num_rollouts == num_rollouts


def test_fluency_decides_between_equals():
    own = np.tile(equally_good(4)[:1], (3, 1))
    (effect,) = replay(chains_of(own, prompt_nll=[4.0, 4.0, 3.0]), ALL, num_splits=2)
    assert effect.share_changed == 1
    (effect,) = replay(chains_of(own, prompt_nll=[4.0, 4.0, 5.0]), ALL, num_splits=2)
    assert effect.share_changed == 0


def test_losses_and_their_fluency_decide_where_they_are_the_objective():
    own = np.tile(equally_good(5)[:1], (3, 1))
    policy = Policy(objective="loss")
    losses = own + np.array([[0.0], [-0.1], [0.1]])
    for nll, share in (([4.0, 4.0, 4.0], 1), ([4.0, 4.4, 4.0], 1), ([4.0, 4.6, 4.0], 0)):
        chains = chains_of(own, losses=losses, prompt_nll=nll)
        assert replay(chains, policy, num_splits=2)[0].share_changed == share
        assert replay(chains, Policy(), num_splits=2)[0].share_changed == 0


def test_shortlists():
    source, rows = np.random.default_rng(0), np.arange(10)
    scores = np.zeros((NUM_SCORED, 5))
    scores[:10] = [0, 3, 2, -9, 1]
    scores[10:] = [-9, 0, 0, 0, 0]  # rows that are not trained on
    own = place(
        np.ones((6, NUM_ROWS)),
        scores={"answer": scores},
        from_lm=[True, True, True, False, True],
        logprobs=[-4, -1, -3, np.nan, -2],
    )
    assert shortlist(own, Policy(), rows, source).tolist() == [0, 4, 2]
    by_logprob, at_random = Policy(signal="proposal log-probability"), Policy(signal="random")
    assert shortlist(own, by_logprob, rows, source).tolist() == [1, 4, 2]
    drawn = {tuple(shortlist(own, at_random, rows, source).tolist()) for _ in range(200)}
    assert len(drawn) == 4 * 3 * 2
    assert {token for own in drawn for token in own} == {0, 1, 2, 4}
    everyone = dataclasses.replace(at_random, shortlist_size=None)
    assert sorted(shortlist(own, everyone, rows, source).tolist()) == [0, 1, 2, 4]


def test_what_a_place_cannot_be_asked():
    own = chains_of(equally_good(0))[0]
    (there,) = own.places
    for policy in (Policy(num_rows=NUM_SELECTION + NUM_SPARE), Policy(num_confirming=NUM_SPARE)):
        assert is_possible(policy, own, there)
        more = dataclasses.replace(policy, num_rows=policy.num_rows + NUM_SPARE)
        assert not is_possible(more, own, there)
    assert not is_possible(Policy(fresh_rows=True, num_rows=NUM_SPARE + 1), own, there)
    few = chains_of(equally_good(0)[:, :130])[0]
    assert not is_possible(Policy(), few, few.places[0])
    nothing = dataclasses.replace(there, from_lm=np.zeros(7, bool))
    assert not is_possible(Policy(), own, nothing)


def test_a_policy_is_the_same_each_time_and_splits_differ():
    chains = drawn_chains(2)
    assert replay(chains, Policy(), 3) == replay(chains, Policy(), 3)
    assert replay(chains, Policy(), 3) != replay(chains, Policy(), 4)


def test_the_prior_of_a_cluster_is_that_of_the_others():
    better, worse = equally_good(0), equally_good(1)
    better[1:], worse[0] = False, False
    first, second = chains_of(better, worse)
    priors = priors_of([first, second])
    assert priors[first.cluster].mean > 0.4
    assert priors[second.cluster].mean < -0.4
    assert priors_of([first])[first.cluster].mean < -0.4
