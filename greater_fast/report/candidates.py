"""Does the score rank the candidates? Those whose reasoning was made anew, and a rank correlation.

A score is the change of the loss that the gradient promises, so the lowest is the best; an
objective is what the candidate then came to. Where the score is of use, both rise together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from greater_fast.report.run_view import RunView, Step, Trial
from greater_fast.report.wording import many, number

_LEAST = 6  # candidates, of which a correlation is told
_Z = 1.96


@dataclass(frozen=True, slots=True)
class Outcome:
    """A candidate that was tried to the end: its score, and its objective less the incumbent's."""

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
                Outcome(trial.score, trial.objective - before, is_winner(step, trial))
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
    """Spearman's ρ, equals at their mean rank; None for fewer than 3 pairs, or one without spread.

    The product-moment correlation of the ranks: Σ (a - ā)(b - b̄) / √(Σ (a - ā)² Σ (b - b̄)²).
    """
    if len(first) < 3:
        return None
    a, b = (_ranks(values) - (len(values) + 1) / 2 for values in (first, second))
    spread = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / spread if spread else None


def correlation_interval(rho: float, num_pairs: int) -> tuple[float, float] | None:
    """95% interval of a rank correlation; None for 3 pairs or fewer.

    tanh(artanh ρ ± 1.96 √((1 + ρ²/2) / (n - 3))), Bonett and Wright 2000 (Psychometrika 65, 23).
    """
    if num_pairs <= 3:
        return None
    centre = math.atanh(max(-0.999999, min(0.999999, rho)))
    half_width = _Z * math.sqrt((1 + rho * rho / 2) / (num_pairs - 3))
    return math.tanh(centre - half_width), math.tanh(centre + half_width)


def in_words(tried: Sequence[Outcome]) -> str:
    """Whether the score ranks candidates, for a reader."""
    rho = rank_correlation([o.score for o in tried], [o.change for o in tried])
    ends = None if rho is None else correlation_interval(rho, len(tried))
    if not tried:
        return "No candidate ran to the end, so there is no telling whether the score ranks them."
    if len(tried) < _LEAST or rho is None or ends is None:
        why = "which is too few" if len(tried) < _LEAST else "and all came out alike: not enough"
        ran = f"{many(len(tried), 'candidate')} ran to the end"
        return f"{ran}, {why} to say whether the score ranks them."
    if ends[0] > 0:
        what = "the score ranks them: a lower score goes with a lower objective"
    elif ends[1] < 0:
        what = "the score ranks them the wrong way round"
    else:
        what = "no ranking shows: score and objective rise together no more than by chance"
    figures = f"ρ = {number(rho, 2)}, 95% interval {number(ends[0], 2)} to {number(ends[1], 2)}"
    return f"Of {len(tried)} candidates that ran to the end, {what} (rank correlation {figures})."


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 1, equals at their mean [n] float64."""
    _, group, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: np.ndarray = (ends - (counts - 1) / 2)[group]
    return ranks
