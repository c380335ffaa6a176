"""Longer searches, simulated from the model of places: no row of them was ever run.

They go on sweep after sweep until a number of rollouts is spent, whether prompts change or not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from benchmarks.evidence.chains import Bools
from benchmarks.evidence.policies.model import PlaceModel, outcomes
from benchmarks.evidence.policies.rules import Doubles, Policy, Trial, decide

NUM_NEAREST = 10  # places, and all that are as near as the last, of which a step draws one
LEAST_ERROR = 0.01  # that any prompt has
MOST_STEPS = 1000  # of a search: near the least error, steps take hardly any rollouts


def simulate(policy: Policy, model: PlaceModel, budgets: Sequence[int], seed: int) -> list[float]:
    """True errors of the incumbent where each number of rollouts is spent; budgets rise.

    The objective is the error rate. With `fresh_rows` each sweep has new training rows, on which
    the incumbent is run anew: later steps of a sweep choose on them again, where a replayed step
    has rows that nothing was chosen on. Confirming rows are new each time.
    """
    search = _Search(policy, model, np.random.default_rng(seed))
    errors: list[float] = []
    for _ in range(MOST_STEPS):
        search.step()
        while len(errors) < len(budgets) and search.num_rollouts >= budgets[len(errors)]:
            errors.append(search.error)
        if len(errors) == len(budgets):
            break
    return errors + [search.error] * (len(budgets) - len(errors))


class _Search:
    def __init__(self, policy: Policy, model: PlaceModel, source: np.random.Generator) -> None:
        self._policy, self._model, self._source = policy, model, source
        self._gained = np.array([place.gained for place in model.seen])
        self._position = 0
        self.error = model.initial_error  # the incumbent's true one
        self.num_rollouts = 0
        self._rows, self._incumbent = self._draw_rows()

    def step(self) -> None:
        """One step at the next position."""
        if self._position == self._model.num_positions:
            self._position = 0
            if self._policy.fresh_rows:
                self._rows, self._incumbent = self._draw_rows()
        errors = np.append(self.error, self._shortlist())
        training = np.concatenate([self._incumbent, self._outcomes(errors[1:], self._rows)])
        further = self._source.random(self._policy.num_confirming)
        is_wrong = np.concatenate([training, self._outcomes(errors, further)], 1)
        trial = Trial.of_errors(is_wrong, self._policy.num_rows)
        decision = decide(self._policy, trial, self._model.prior)
        self.num_rollouts += decision.num_rollouts
        self.error = float(errors[decision.winner])
        self._incumbent = training[[decision.winner]]
        self._position += 1

    def _shortlist(self) -> Doubles:
        """True errors of the candidates tried, best first by a signal of the known correlation."""
        model = self._model
        gained = model.initial_error - self.error
        distance = np.abs(self._gained - gained)
        within = np.sort(distance)[min(NUM_NEAREST, len(distance)) - 1]
        seen = model.seen[self._source.choice(np.flatnonzero(distance <= within))]
        spread = self._source.permutation(seen.spread)
        share = 0.0 if self._policy.signal == "random" else model.signal_correlation
        deviation = math.sqrt(model.prior.variance) or 1.0
        noise = self._source.standard_normal(len(spread))
        scores = share * spread / deviation + math.sqrt(1 - share**2) * noise
        best = np.argsort(scores)[: self._policy.shortlist_size]
        effects = model.first_effect + model.pull * gained + seen.beyond + spread[best]
        found: Doubles = np.clip(self.error + effects, LEAST_ERROR, 1 - LEAST_ERROR)
        return found

    def _draw_rows(self) -> tuple[Doubles, Bools]:
        """New training rows [N], and the incumbent's outcomes there [1, N]."""
        self.num_rollouts += self._policy.num_rows
        rows = self._source.random(self._policy.num_rows)
        return rows, self._outcomes(np.array([self.error]), rows)

    def _outcomes(self, errors: Doubles, rows: Doubles) -> Bools:
        return outcomes(self._source, errors, rows, self._model.row_share)
