"""Policies on stored chains: what a rule would have kept at each place, and what that was worth.

At each place the rows are split anew a number of times. Training rows are drawn from those that the
incumbent was chosen on, as in a search that keeps its rows, and rows beyond these from the spare
ones; a policy of fresh rows has spare ones alone. The true errors are those of the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.evidence.chains import Chain, Outcomes, Place
from benchmarks.evidence.places.ranking import SIGNALS, Measured
from benchmarks.evidence.policies.model import fit
from benchmarks.evidence.policies.rules import Counts, Doubles, Policy, Prior, Trial, decide
from greater_fast.config import Config

NUM_SPARE = 50  # rows beyond those of the incumbent's choice that a policy may use
LEAST_TRUTH = 40  # rows of the true errors
Cluster = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Effect:
    """What a policy does at a place, mean over the splits.

    `change` is the true error of what was kept less that of the incumbent: below 0 is a gain.
    `num_rollouts` has those of the incumbent too where its outcomes are not known before.
    """

    cluster: Cluster
    change: float
    num_rollouts: float
    share_changed: float


def replay(chains: Sequence[Chain], policy: Policy, num_splits: int) -> list[Effect]:
    """Effects at all places whose pool has rows enough; the same splits for each policy.

    The prior of a place comes from the chains of other rows.
    """
    priors = priors_of(chains) if policy.shrinkage == "prior" else {}
    return [
        _effect(chain, number, policy, priors.get(chain.cluster, Prior(0.0, 0.0)), num_splits)
        for chain in chains
        for number, place in enumerate(chain.places)
        if is_possible(policy, chain, place)
    ]


def priors_of(chains: Sequence[Chain]) -> Mapping[Cluster, Prior]:
    """For each cluster the prior that all others give; all chains' where there are no others."""
    clusters = {chain.cluster for chain in chains}
    return {
        cluster: fit([c for c in chains if c.cluster != cluster] or chains).prior
        for cluster in clusters
    }


def is_possible(policy: Policy, chain: Chain, place: Place) -> bool:
    """Whether a place has the rows and the candidates that a policy needs."""
    num_old = 0 if policy.fresh_rows else chain.num_selection
    num_spare = max(0, policy.num_rows - num_old) + policy.num_confirming
    num_truth = place.outcomes.is_right.shape[1] - chain.num_selection - NUM_SPARE
    has_rows = num_spare <= NUM_SPARE and num_truth >= LEAST_TRUTH
    return has_rows and bool(place.from_lm.any())


def _effect(chain: Chain, number: int, policy: Policy, prior: Prior, num_splits: int) -> Effect:
    place = chain.places[number]
    is_wrong = ~place.outcomes.is_right
    num_old = 0 if policy.fresh_rows else min(policy.num_rows, chain.num_selection)
    num_new = policy.num_rows - num_old
    found = []
    for split in range(num_splits):
        source = np.random.default_rng([split, number, chain.seed, *chain.task.encode()])
        old = source.permutation(chain.num_selection)
        spare, truth = np.split(
            source.permutation(np.arange(chain.num_selection, is_wrong.shape[1])), [NUM_SPARE]
        )
        training = np.append(old[:num_old], spare[:num_new])
        prompts = np.append(0, 1 + shortlist(place, policy, old[: policy.num_rows], source))
        further = spare[num_new : num_new + policy.num_confirming]
        rows = np.append(source.permutation(training), further)
        decision = decide(policy, _trial(place.outcomes, policy, prompts, rows), prior)
        kept = is_wrong[prompts[decision.winner], truth].mean()
        change = kept - is_wrong[0, truth].mean()
        found.append((change, decision.num_rollouts + num_new, decision.winner > 0))
    change, num_rollouts, share = np.mean(found, axis=0).tolist()
    return Effect(chain.cluster, change, num_rollouts, share)


def _trial(outcomes: Outcomes, policy: Policy, prompts: Counts, rows: Counts) -> Trial:
    config = Config()
    training = np.ix_(prompts, rows[: policy.num_rows])
    is_wrong = ~outcomes.is_right[np.ix_(prompts, rows)]
    fluency: Doubles = outcomes.prompt_nll[training].astype(np.float64)
    if policy.objective == "error":
        errors = is_wrong[:, : policy.num_rows]
        return Trial(is_wrong, errors + config.error_fluency_weight * fluency)
    losses: Doubles = outcomes.answer_loss[training].astype(np.float64)
    return Trial(is_wrong, losses + config.fluency_weight * fluency)


def shortlist(place: Place, policy: Policy, rows: Counts, source: np.random.Generator) -> Counts:
    """Numbers of the model's proposals that are tried, best first by the signal on these rows.

    They are old ones under each policy: of others no scores are stored.
    """
    proposed = np.flatnonzero(place.from_lm)
    mixed = source.permutation(proposed)
    if policy.signal == "random":
        return mixed[: policy.shortlist_size]
    shares = np.zeros((1, place.outcomes.is_right.shape[1]))
    shares[0, rows] = 1 / len(rows)
    scores = SIGNALS[policy.signal](Measured(place, shares, place.from_lm))[0]
    return proposed[np.argsort(scores, kind="stable")][: policy.shortlist_size]
