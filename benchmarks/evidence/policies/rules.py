"""Rules of a step: which prompt is kept, and after how many rollouts.

A rule sees outcomes of rows alone, so that it can be tried on stored ones and on simulated ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from benchmarks.evidence.chains import Bools
from greater_fast.search.nouns import TIE
from greater_fast.search.racing import Course, Race

ANSWER = "answer gradient (the paper's)"  # the signal of the search
Doubles = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a step chooses; the defaults are those of the search.

    Attributes:
        num_rows: training rows that each shortlisted candidate is run on.
        shortlist_size: of the candidates; None: all.
        signal: what puts candidates in order: a name of `places.ranking.SIGNALS`, or "random".
        fresh_rows: whether the training rows are others than those the incumbent was chosen on.
        objective: "error" or "loss", as in `Config`; what is compared, tests and races aside.
        accept: "improve" or "best", as in `Config`.
        race: alpha of the race, 0 for none.
        shrinkage: of the measured difference to the incumbent, before it is compared with 0:
            "none", "place" (James and Stein's, towards the mean of the place), or "prior" (the
            posterior mean under the normal prior of other chains).
        level: the best is accepted where a one-sided sign test on the rows where the two differ has
            a p value of this at most; 1 for no test.
        num_confirming: further rows, on which the best must have fewer errors than the incumbent.
    """

    num_rows: int = 50
    shortlist_size: int | None = 3
    signal: str = ANSWER
    fresh_rows: bool = False
    objective: str = "error"
    accept: str = "improve"
    race: float = 0.0
    shrinkage: str = "none"
    level: float = 1.0
    num_confirming: int = 0


@dataclass(frozen=True, slots=True)
class Prior:
    """A candidate's true error less its incumbent's, as a normal variable."""

    mean: float
    variance: float


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What a rule has to go by: the incumbent first, then the S prompts of the shortlist.

    `is_wrong` [1 + S, num_rows + num_confirming] has its rows in random order. The objective is the
    mean of `terms` [1 + S, num_rows]: a row's error or loss, and its part of the fluency.
    """

    is_wrong: Bools
    terms: Doubles

    @classmethod
    def of_errors(cls, is_wrong: Bools, num_rows: int) -> Trial:
        """One without fluency, by the errors of its first rows."""
        return cls(is_wrong, is_wrong[:, :num_rows].astype(np.float64))


@dataclass(frozen=True, slots=True)
class Decision:
    """Which of the 1 + S prompts is kept, and the rollouts it took.

    Rollouts are counted as if rows ran one after another: what a race or the bound of the incumbent
    saves at most. Those of the incumbent on the training rows are not among them.
    """

    winner: int
    num_rollouts: int


def decide(policy: Policy, trial: Trial, prior: Prior) -> Decision:
    """Run the rule."""
    training = trial.is_wrong[:, : policy.num_rows]
    objectives: Doubles = trial.terms.mean(1)
    num_run, is_out = _rows_run(policy, trial, training, objectives[0])
    num_rollouts = int(num_run.sum())
    best = int(np.where(is_out, np.inf, objectives[1:]).argmin()) + 1
    if is_out[best - 1]:
        return Decision(0, num_rollouts)
    if policy.accept == "improve" and not _is_better(policy, training, objectives, best, prior):
        return Decision(0, num_rollouts)
    if policy.num_confirming:
        further = trial.is_wrong[:, policy.num_rows :]
        num_rollouts += 2 * policy.num_confirming
        if further[best].sum() >= further[0].sum():
            best = 0
    return Decision(best, num_rollouts)


def _rows_run(policy: Policy, trial: Trial, training: Bools, bound: float) -> tuple[Counts, Bools]:
    """Rows [S] that candidates are run on, and whether [S] they are given up or dropped there.

    A candidate is given up where it is worse than the incumbent whatever its further rows are; not
    where it need not be better, nor where all errors are needed. A race that is lost at the last
    row drops nothing: all is known there.
    """
    num_rows = training.shape[1]
    is_over: Bools = np.zeros_like(training[1:])
    if policy.accept == "improve" and policy.shrinkage == "none":
        so_far: Doubles = trial.terms[1:].cumsum(1) / num_rows
        is_over |= so_far > bound + TIE
    if policy.race:
        course = Course(tuple(range(num_rows)), tuple(training[0].tolist()), policy.race)
        is_lost = np.array([_is_lost(course, own) for own in training[1:].tolist()], np.bool_)
        is_over[:, :-1] |= is_lost[:, :-1]
    is_out: Bools = is_over.max(1)
    num_run: Counts = np.where(is_out, is_over.argmax(1) + 1, num_rows)
    return num_run, is_out


def _is_lost(course: Course, is_missed: list[bool]) -> list[bool]:
    """Whether the race is lost, after each row."""
    race, found = Race(course), []
    for row, missed in enumerate(is_missed):
        race.bet(row, missed)
        found.append(race.is_lost)
    return found


def _is_better(
    policy: Policy, training: Bools, objectives: Doubles, best: int, prior: Prior
) -> bool:
    if policy.shrinkage != "none":
        return shrunk_difference(policy.shrinkage, training, best, prior) < 0
    num_wins = int((training[0] & ~training[best]).sum())
    num_losses = int((training[best] & ~training[0]).sum())
    is_lower = bool(objectives[best] < objectives[0] - TIE)
    return is_lower and (policy.level >= 1 or sign_test(num_wins, num_losses) <= policy.level)


@cache
def sign_test(num_wins: int, num_losses: int) -> float:
    """P value P(X >= wins) of X ~ Binomial(wins + losses, 1/2)."""
    number = num_wins + num_losses
    return sum(math.comb(number, k) for k in range(num_wins, number + 1)) / (1 << number)


def shrunk_difference(kind: str, training: Bools, best: int, prior: Prior) -> float:
    """Estimate of the true error of the best candidate less the incumbent's, by [1 + S, N] rows.

    "prior": mean + (d - mean) variance / (variance + noise), where noise is the variance of the
    measured difference d. "place": d_mean + (d - d_mean) max(0, 1 - (S - 3) noise / sum (d_k -
    d_mean)^2), with the noise of candidates' differences among themselves; 3 and fewer stay.
    """
    num_rows = training.shape[1]
    differences: Doubles = training[1:].mean(1) - training[0].mean()
    own = float(differences[best - 1])
    if kind == "prior":
        noise = float((training[0] != training[best]).mean()) / num_rows
        weight = prior.variance / (prior.variance + noise) if prior.variance else 0.0
        return prior.mean + weight * (own - prior.mean)
    centre = float(differences.mean())
    spread = float(((differences - centre) ** 2).sum())
    weight = 1 - (len(differences) - 3) * noise_variance(training[1:]) / spread if spread else 0.0
    return centre + min(1.0, max(0.0, weight)) * (own - centre)


def noise_variance(is_wrong: Bools) -> float:
    """Expected sample variance of the error rates of prompts [S, N] that are equally good.

    As they share their rows, it is half the mean share of rows where two of them differ, over N.
    """
    num_prompts, num_rows = is_wrong.shape
    if num_prompts < 2:
        return 0.0
    num_wrong = is_wrong.sum(0)
    num_differing = int((num_wrong * (num_prompts - num_wrong)).sum())
    return float(num_differing / (num_prompts * (num_prompts - 1) * num_rows**2))
