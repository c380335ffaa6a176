"""A model of places, fitted to stored chains: what longer searches are simulated from.

A candidate's true error is its incumbent's plus an effect. What effects there are is taken from the
chains: those of a place where about as much was gained over the initial prompt, with what rows
alone give taken off their spread. The more was gained, the worse are the effects to be expected:
`pull` is the slope, by which the effects of the place that was drawn are moved.

A row is wrong under a prompt where a uniform number is below the prompt's true error: the row's own
number with probability sqrt(`row_share`), else a new one. Prompts of true errors p and q are both
wrong on a row with probability p q + row_share (min(p, q) - p q).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.evidence.chains import Bools, Chain, Place
from benchmarks.evidence.policies.rules import Doubles, Prior, noise_variance


@dataclass(frozen=True, slots=True, eq=False)
class SeenPlace:
    """A place of the chains.

    `gained` is by how much its incumbent is better than the initial prompt, `beyond` its mean
    effect less the one to be expected, `spread` [K] the candidates' effects less that mean.
    """

    gained: float
    beyond: float
    spread: Doubles


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceModel:
    """What was fitted.

    Attributes:
        initial_error: true error of the initial prompt.
        first_effect: expected effect where the incumbent is as good as the initial prompt.
        pull: share of what was gained that a change is expected to undo.
        prior: of the effects at all places, as if they were normal.
        row_share: 0 where rows are independent, 1 where prompts of equal error fail on the same.
        signal_correlation: of the answer's gradient and the effect, within a place.
        num_positions: tokens of the prompt.
        seen: the places.
    """

    initial_error: float
    first_effect: float
    pull: float
    prior: Prior
    row_share: float
    signal_correlation: float
    num_positions: int
    seen: tuple[SeenPlace, ...]

    def to_dict(self) -> dict[str, float]:
        """The numbers alone, for JSON."""
        names = ("initial_error", "first_effect", "pull", "row_share", "signal_correlation")
        prior = {"effect": self.prior.mean, "deviation": math.sqrt(self.prior.variance)}
        return {name: getattr(self, name) for name in names} | prior


def outcomes(
    source: np.random.Generator, errors: Doubles, rows: Doubles, row_share: float
) -> Bools:
    """Whether prompts of true errors [S] are wrong, [S, N], on rows with own numbers [N]."""
    shape = (len(errors), len(rows))
    is_own = source.random(shape) < math.sqrt(row_share)
    numbers = np.where(is_own, rows, source.random(shape))
    is_wrong: Bools = numbers < errors[:, None]
    return is_wrong


def fit(chains: Sequence[Chain]) -> PlaceModel:
    """Fit the model by moments, on the rows that no incumbent was chosen on.

    The variance of effects is the mean sample variance of the candidates' error rates at a place,
    less what rows alone would give; so is that of the places' means about the line.

    Raises:
        ValueError: there is no place with candidates and rows.
    """
    places = [
        (chain, place)
        for chain in chains
        for place in chain.places
        if place.from_lm.any() and place.outcomes.is_right.shape[1] > chain.num_selection
    ]
    if not places:
        raise ValueError("expected one place at least with candidates and rows not chosen on")
    moments = np.array([_moments(chain, place) for chain, place in places])
    effect, total, noise, joint, most, covariance, mean_noise = moments.mean(0).tolist()
    num_positions = round(_mean([len(place.prompt_ids) for _, place in places]))
    pull, gained = _pull(places, 1 / num_positions)
    beyond = moments[:, 0] - effect - pull * (gained - gained.mean())
    variance = max(0.0, total - noise)
    deviation = math.sqrt(variance)
    return PlaceModel(
        initial_error=_mean([_wrong(chain, chain.places[0])[0].mean() for chain, _ in places]),
        first_effect=effect - pull * float(gained.mean()),
        pull=pull,
        prior=Prior(effect, variance),
        row_share=min(1.0, max(0.0, joint / most)) if most > 0 else 0.0,
        signal_correlation=max(-1.0, min(1.0, covariance / deviation)) if deviation else 0.0,
        num_positions=num_positions,
        seen=_seen(places, gained, beyond * _share(beyond.var(), mean_noise), _share(total, noise)),
    )


def _seen(
    places: Sequence[tuple[Chain, Place]], gained: Doubles, beyond: Doubles, share: float
) -> tuple[SeenPlace, ...]:
    found = []
    for (chain, place), own_gain, own_mean in zip(places, gained, beyond, strict=True):
        rates: Doubles = _wrong(chain, place)[1:].mean(1)
        found.append(SeenPlace(float(own_gain), float(own_mean), share * (rates - rates.mean())))
    return tuple(found)


def _share(variance: float, noise: float) -> float:
    """What deviations are multiplied by, for their variance to be without that of the noise."""
    return math.sqrt(max(0.0, 1 - noise / variance)) if variance > 0 else 0.0


def _wrong(chain: Chain, place: Place) -> Bools:
    """Whether the incumbent and the model's proposals are wrong on the rows not chosen on."""
    rows: Bools = ~place.outcomes.is_right[np.append(True, place.from_lm), chain.num_selection :]
    return rows


def _moments(chain: Chain, place: Place) -> list[float]:
    """Seven figures of a place.

    Mean effect; sample variance of effects, and what rows alone give of it; covariance of rows with
    the incumbent's, and the most that it could be; covariance of effects with the signal in its
    standard deviations; variance that rows alone give the mean effect.
    """
    is_wrong = _wrong(chain, place)
    first, others = float(is_wrong[0].mean()), is_wrong[1:].mean(1)
    joint = (is_wrong[1:] & is_wrong[0]).mean(1) - first * others
    most = np.minimum(first, others) - first * others
    variance = others.var(ddof=1) if len(others) > 1 else 0.0
    differences = is_wrong[1:].mean(0) - is_wrong[0]
    mean_noise = differences.var() / len(differences)
    covariance = 0.0
    if "answer" in place.scores and len(others) > 1:
        scores = place.scores["answer"][: chain.num_selection][:, place.from_lm]
        totals: Doubles = scores.sum(0, dtype=np.float64)
        deviation = float(totals.std(ddof=1)) or 1.0  # that of effects is of a sample too
        covariance = float((totals - totals.mean()) @ others) / deviation / (len(others) - 1)
    spread = (variance, noise_variance(is_wrong[1:]))
    return [others.mean() - first, *spread, joint.mean(), most.mean(), covariance, mean_noise]


def _pull(places: Sequence[tuple[Chain, Place]], least: float) -> tuple[float, Doubles]:
    """The pull, and by how much the incumbent of each place is better than the initial prompt.

    It is the slope of effects over what was gained. As both are measured on rows, which would give
    a slope by their noise alone, effects of each half of the rows are held against what was gained
    on the other half. It is `least` at least: what is undone where each position's effect is its
    own, and effects add up.
    """
    halves: list[list[Doubles]] = [[], []]
    for chain, place in places:
        start, here = _wrong(chain, chain.places[0])[0], _wrong(chain, place)
        for number, own in enumerate(halves):
            rows = slice(number, None, 2)
            first = here[0, rows].mean()
            own.append(np.array([start[rows].mean() - first, here[1:, rows].mean() - first]))
    gained, effects = np.transpose(halves, (2, 1, 0))  # [places, 2] each
    centred = gained - gained.mean(0)
    spread = float((centred[:, 0] * centred[:, 1]).sum())
    slope = float((centred * effects[:, ::-1]).sum()) / 2 / spread if spread > 0 else 0.0
    return max(least, min(1.0, slope)), gained.mean(1)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
