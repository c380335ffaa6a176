"""Does the score rank the candidates? Those whose reasoning was made anew, and a rank correlation.

A score is the change of the loss that the gradient promises, so the lowest is the best; an
objective is what the candidate then came to. Where the score is of use, both rise together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from greater_fast.report.run_view import RunView, Step, Trial
from greater_fast.report.wording import many, number
from greater_fast.runs.statistics import is_sure, p_text, sign_flip_test

_LEAST = 6  # steps whose candidates are ranked: fewer signs cannot show anything


@dataclass(frozen=True, slots=True)
class Outcome:
    """A candidate that was tried to the end: its score, and its objective less the incumbent's."""

    step: int
    score: float
    change: float
    is_accepted: bool


def outcomes(view: RunView) -> list[Outcome]:
    """All candidates of a run with a score and an objective."""
    before = view.initial.objective if view.initial and view.result else None
    found: list[Outcome] = []
    for step in view.steps:
        if not step.changed:
            before = step.objective  # which the step left as it was
        if before is not None:
            found.extend(
                Outcome(step.number, trial.score, trial.objective - before, is_winner(step, trial))
                for trial in step.trials
                if trial.score is not None and trial.objective is not None
            )
        before = step.objective
    return found


def is_winner(step: Step, trial: Trial) -> bool:
    """Whether a candidate became part of the prompt in this step."""
    return step.changed and trial.token_id is not None and trial.token_id == step.token_id


def num_given_up(view: RunView) -> int:
    """Candidates that were given up early, of which no objective is known."""
    return sum(trial.objective is None for step in view.steps for trial in step.trials)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's ρ, equals at their mean rank; None for fewer than 2 pairs, or one without spread.

    The product-moment correlation of the ranks: Σ (a - ā)(b - b̄) / √(Σ (a - ā)² Σ (b - b̄)²).
    """
    a, b = (_ranks(values) - (len(values) + 1) / 2 for values in (first, second))
    spread = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / spread if spread else None


def why_none(view: RunView) -> str:
    """Why a run has no candidate with both a score and what it came to, for a reader."""
    ended = [trial for step in view.steps for trial in step.trials if trial.objective is not None]
    if not ended:
        return "No candidate ran to the end, so there is no telling whether the score ranks them."
    if all(trial.score is None for trial in ended):
        return "Candidates were drawn without a score, so there is nothing that could rank them."
    return "What the prompt came to before is not known yet, so there is nothing to compare with."


def in_words(tried: Sequence[Outcome]) -> str:
    """Whether the score ranks candidates within their steps, for a reader; of one at least.

    Of each step one correlation, their mean held against 0 by turning signs: the search compares
    candidates of one step alone, and those of two differ by where the prompt stood as well.
    """
    by_step: dict[int, list[Outcome]] = {}
    for outcome in tried:
        by_step.setdefault(outcome.step, []).append(outcome)
    of_steps = [
        rank_correlation([o.score for o in s], [o.change for o in s]) for s in by_step.values()
    ]
    found = [rho for rho in of_steps if rho is not None]
    ran = f"{many(len(tried), 'candidate')} ran to the end"
    if len(found) < _LEAST:
        several = many(len(found), "step")
        return (
            f"{ran}, in {several} more than one of which came out differently: too few to say "
            f"whether the score ranks them ({_LEAST} are the least)."
        )
    mean, p_value = fmean(found), sign_flip_test(found)
    if not is_sure(p_value):
        what = "no ranking shows: score and objective rise together no more than by chance"
    elif mean > 0:
        what = "the score ranks them: a lower score goes with a lower objective"
    else:
        what = "the score ranks them the wrong way round"
    figures = f"rank correlation {number(mean, 2)} on the mean of {len(found)} steps"
    return f"{ran}; within a step, {what} ({figures}, {p_text(p_value)})."


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 1, equals at their mean [n] float64."""
    _, group, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: np.ndarray = (ends - (counts - 1) / 2)[group]
    return ranks
