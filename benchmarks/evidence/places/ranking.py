"""Signals at a place, from a chain's file alone: rows split anew into training and truth.

A signal gives each candidate a number, lower is better, from the training rows; the truth is the
candidates' error rate on other rows, none of which a change was accepted on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import comb

import numpy as np
import numpy.typing as npt

from benchmarks.evidence.chains import Place
from benchmarks.evidence.resampling import Doubles, ranks, spearman
from greater_fast.config import Config

SHORTLIST = 3
_NUM_SPLITS = 100
_LOSS = Config(objective="loss")


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """R ways to split the pool's N rows: `train` and `truth` [R, N] are 1 where a row is in it.

    `halves` are the truth's rows in two parts that are as large.
    """

    train: Doubles
    truth: Doubles
    halves: tuple[Doubles, Doubles]

    @classmethod
    def drawn(cls, pool: tuple[int, int, int], num_train: int, num_truth: int) -> Splits:
        """The same ones each time; training rows are as many as the selection's at most.

        `pool` are numbers of rows: of selection, of those with scores, and of all. Truth comes of
        the rows behind the selection, training rows of those with scores that are not in it.
        """
        num_selection, num_scored, num_rows = pool
        source = np.random.default_rng(0)
        later = np.tile(np.arange(num_selection, num_rows), (_NUM_SPLITS, 1))
        chosen = source.permuted(later, axis=1)[:, :num_truth]
        truth = _marked(chosen, num_rows)
        keys = source.random((_NUM_SPLITS, num_scored))
        keys[truth[:, :num_scored] > 0] = np.inf
        train = _marked(np.argsort(keys, axis=1)[:, : min(num_train, num_selection)], num_rows)
        half = num_truth // 2
        parts = (chosen[:, :half], chosen[:, half : 2 * half])
        return cls(train, truth, (_marked(parts[0], num_rows), _marked(parts[1], num_rows)))


def _marked(chosen: npt.NDArray[np.int64], num_rows: int) -> Doubles:
    marked = np.zeros((len(chosen), num_rows))
    np.put_along_axis(marked, chosen, 1, axis=1)
    return marked


def means(rows: Doubles, values: npt.NDArray[np.generic]) -> Doubles:
    """Means [R, K] of values [N, K] over the rows [R, N] of each split.

    They are summed before they are divided: sums of counts, and of numbers of few bits, are exact
    whatever their order, so that equals are equal on every machine.
    """
    found: Doubles = (rows @ values.astype(np.float64)) / rows.sum(1, keepdims=True)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A place as splits see it: what signals read, [R, K] or [K], of the candidates asked for."""

    place: Place
    train: Doubles
    chosen: npt.NDArray[np.bool_]  # [K] of all candidates

    def score(self, name: str) -> Doubles:
        """A score that was stored of each row, its mean over the training rows."""
        scores = self.place.scores[name][:, self.chosen]
        return means(self.train[:, : len(scores)], scores)

    def mean(self, values: npt.NDArray[np.generic]) -> Doubles:
        """Means over the training rows of outcomes [1 + K, N]."""
        return means(self.train, values[1:][self.chosen].T)

    def logprob(self) -> Doubles:
        """Minus the model's own log-probability; tokens that it does not propose come last."""
        given: Doubles = -self.place.logprobs[self.chosen].astype(np.float64)
        given[np.isnan(given)] = np.inf
        return np.tile(given, (len(self.train), 1))

    def error(self) -> Doubles:
        """Error rates, the reasoning regenerated."""
        return self.mean(~self.place.outcomes.is_right)

    def loss(self) -> Doubles:
        """The paper's loss, the reasoning regenerated."""
        outcomes = self.place.outcomes
        nll = self.mean(outcomes.prompt_nll)
        return self.mean(outcomes.answer_loss) + _LOSS.fluency_weight * nll


def together(*parts: Doubles) -> Doubles:
    """Scores of equal weight: each divided by its spread over the candidates first.

    The search divides gradients by their lengths; of some rows alone, these are not stored.
    """
    total = np.zeros_like(parts[0])
    for part in parts:
        spread = part.std(-1, keepdims=True)
        total += np.divide(part, spread, out=np.zeros_like(part), where=spread > 0)
    return total


def by_rank(*parts: Doubles) -> Doubles:
    """The sum of ranks."""
    total: Doubles = np.sum([ranks(part) for part in parts], axis=0)
    return total


Signal = Callable[[Measured], Doubles]
SIGNALS: Mapping[str, Signal] = {
    "answer gradient (the paper's)": lambda m: m.score("answer"),
    "reasoning gradient, stored": lambda m: m.score("stored"),
    "reasoning gradient, sampled": lambda m: m.score("sampled"),
    "both gradients": lambda m: together(m.score("answer"), m.score("stored")),
    "both gradients, sampled": lambda m: together(m.score("answer"), m.score("sampled")),
    "stored reasonings re-scored": lambda m: m.score("rescored"),
    "stored reasonings by importance": lambda m: m.score("weighted"),
    "proposal log-probability": lambda m: m.logprob(),
    "error, regenerated": lambda m: m.error(),
    "loss, regenerated": lambda m: m.loss(),
    "ranks of both and log-probability": lambda m: by_rank(
        m.score("answer"), m.score("stored"), m.logprob()
    ),
    "ranks of both and error": lambda m: by_rank(
        together(m.score("answer"), m.score("stored")), m.error()
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """True error rates [R, K] of K candidates: on all rows of the truth, and on either half."""

    whole: Doubles
    halves: tuple[Doubles, Doubles]

    @classmethod
    def on(cls, splits: Splits, is_wrong: npt.NDArray[np.bool_]) -> Errors:
        """Those of candidates by whether they are wrong on the pool's rows [N, K]."""
        first, second = (means(half, is_wrong) for half in splits.halves)
        return cls(means(splits.truth, is_wrong), (first, second))

    def at(self, which: npt.NDArray[np.int64]) -> Errors:
        """Those of some candidates: their numbers [R, J]."""
        first, second = (np.take_along_axis(half, which, axis=1) for half in self.halves)
        return Errors(np.take_along_axis(self.whole, which, axis=1), (first, second))

    def lowest_of(self, number: int) -> Doubles:
        """Expected error [R] of the lowest of so many candidates, drawn without replacement.

        The lowest of noisy errors is low by luck too: which one it is is said by one half of the
        rows, its error by the other, and the mean taken of both ways. Ties go to the lower id.
        """
        num = self.whole.shape[1]
        size = min(number, num)
        chances = np.array([comb(num - 1 - i, size - 1) / comb(num, size) for i in range(num)])
        found = np.zeros(len(self.whole))
        for chosen_by, measured in (self.halves, self.halves[::-1]):
            order = np.argsort(chosen_by, axis=1, kind="stable")
            found += np.take_along_axis(measured, order, axis=1) @ chances / 2
        return found


@dataclass(frozen=True, slots=True)
class Ranking:
    """How a signal ranked the candidates of a place, mean over the splits.

    `best` is the mean true error of its best few, `lowest` that of the lowest among them; both less
    what as many at random come to.
    """

    correlation: float
    best: float
    lowest: float


def ranking(values: Doubles, errors: Errors, drawn: Errors) -> Ranking:
    """By a signal's values [R, K] of the candidates with these errors; ties go to the lower id.

    `drawn` are the errors of the candidates that some at random are of.
    """
    best = errors.at(np.argsort(values, axis=1, kind="stable")[:, :SHORTLIST])
    return Ranking(
        correlation=float(spearman(values, errors.whole).mean()),
        best=float((best.whole.mean(1) - drawn.whole.mean(1)).mean()),
        lowest=float((best.lowest_of(SHORTLIST) - drawn.lowest_of(SHORTLIST)).mean()),
    )
