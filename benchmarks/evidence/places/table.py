"""The table of signals: what each is worth at the places of one model's chains, with intervals.

A chain's first place is not among them: it fills the store of reasonings that the others draw on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.evidence.chains import Chain, Place
from benchmarks.evidence.places.ranking import (
    SHORTLIST,
    SIGNALS,
    Measured,
    Ranking,
    Splits,
    lowest_at_random,
    means,
    ranking,
)
from benchmarks.evidence.resampling import Clusters, Doubles, Estimate, ceiling, holm, spearman

LEAST_PLACES = 60
NUM_TRUTH = 96  # rows of the truth, fewer where the pool has fewer that no change was accepted on
NUM_TRAIN = (24, 50)
VOCABULARY = "answer gradient, lowest of the vocabulary"
_WITHOUT_ROWS = "proposal log-probability"  # a signal that reads none

Key = tuple[str, int]  # a signal and its number of training rows


@dataclass(frozen=True, slots=True)
class Baselines:
    """What the candidates of a place come to without a signal: true errors, mean over splits."""

    half_correlation: float
    mean: float
    lowest_at_random: float
    best: float
    incumbent: float


@dataclass(frozen=True, slots=True)
class Line:
    """A signal in the table; p-values are Holm's unless it is the primary one."""

    key: Key
    correlation: Estimate
    best: Estimate
    lowest: Estimate
    correlation_p: float
    best_p: float


def table(chains: Sequence[Chain], primary: Key) -> str:
    """The report on chains of one model: number of places first, then baselines and signals."""
    used, num_left_out = counted(chains)
    heading = f"{len(used)} places, {len({chain.cluster for chain, _ in used})} chains"
    if num_left_out:
        heading += f" ({num_left_out} places with too few proposals are left out)"
    if len(used) < LEAST_PLACES:
        heading += f": too few to conclude, {LEAST_PLACES} are the least"
    if not used:
        return heading
    parts = [heading, _baselines_text(used), _stored_text([place for _, place in used])]
    return "\n\n".join([*parts, _table_text(signal_lines(chains, primary), primary)])


def counted(chains: Sequence[Chain]) -> tuple[list[tuple[Chain, Place]], int]:
    """Places that count, with their chains, and how many have too few proposals to rank."""
    # At the first place of a chain no reasoning of another prompt is stored.
    places = [(chain, place) for chain in chains for place in chain.places[1:]]
    used = [(chain, place) for chain, place in places if place.from_lm.sum() > SHORTLIST]
    return used, len(places) - len(used)


def signal_lines(chains: Sequence[Chain], primary: Key) -> list[Line]:
    """The primary signal first, then the others; Holm's correction is over all that these ask."""
    used, _ = counted(chains)
    clusters = Clusters([chain.cluster for chain, _ in used])
    found = [dict(rankings(place, chain.num_selection)) for chain, place in used]
    keys = [primary, *(key for key in found[0] if key != primary)]
    columns = [
        [clusters.estimate([getattr(own[key], name) for own in found]) for key in keys]
        for name in ("correlation", "best", "lowest")
    ]
    asked = list(zip(*columns, strict=True))
    adjusted = holm([e.p_value for own in asked[1:] for e in own[:2]])
    pairs = zip(adjusted[::2], adjusted[1::2], strict=True)
    p_values = [(asked[0][0].p_value, asked[0][1].p_value), *pairs]
    return [
        Line(key, correlation, best, lowest, *own)
        for key, (correlation, best, lowest), own in zip(keys, asked, p_values, strict=True)
    ]


def rankings(place: Place, num_selection: int) -> Iterator[tuple[Key, Ranking]]:
    """How each signal ranks a place's proposals, and the gradient all candidates."""
    for num_train in NUM_TRAIN:
        splits = splits_of(place, num_selection, num_train)
        errors = _errors(place, splits.truth)
        measured = Measured(place, splits.train, place.from_lm)
        for name, signal in SIGNALS.items():
            if name != _WITHOUT_ROWS or num_train == NUM_TRAIN[-1]:
                yield (name, num_train), ranking(signal(measured), errors[:, place.from_lm])
        everyone = Measured(place, splits.train, np.ones_like(place.from_lm))
        found = ranking(everyone.score("answer"), errors, errors[:, place.from_lm])
        yield (VOCABULARY, num_train), found


def splits_of(place: Place, num_selection: int, num_train: int) -> Splits:
    """Splits of the rows of a place's pool."""
    num_scored, num_rows = len(place.num_effective), place.outcomes.is_right.shape[1]
    num_truth = min(NUM_TRUTH, num_rows - num_selection)
    return Splits.drawn((num_selection, num_scored, num_rows), num_train, num_truth)


def baselines(place: Place, num_selection: int) -> Baselines:
    """What is true of a place's proposals, whoever ranks them."""
    splits = splits_of(place, num_selection, NUM_TRAIN[-1])
    errors = _errors(place, splits.truth)[:, place.from_lm]
    first, second = (_errors(place, half)[:, place.from_lm] for half in splits.halves)
    incumbent = means(splits.truth, ~place.outcomes.is_right[:1].T)
    return Baselines(
        half_correlation=float(spearman(first, second).mean()),
        mean=float(errors.mean()),
        lowest_at_random=float(lowest_at_random(errors).mean()),
        best=float(errors.min(1).mean()),
        incumbent=float(incumbent.mean()),
    )


def _errors(place: Place, rows: Doubles) -> Doubles:
    """Error rates [R, K] of all candidates on rows [R, N]."""
    return means(rows, ~place.outcomes.is_right[1:].T)


def _baselines_text(used: Sequence[tuple[Chain, Place]]) -> str:
    clusters = Clusters([chain.cluster for chain, _ in used])
    bases = [baselines(place, chain.num_selection) for chain, place in used]
    found = {
        name: clusters.estimate([getattr(base, name) for base in bases])
        for name in Baselines.__slots__
    }
    errors = (
        f"{SHORTLIST} at random {found['mean'].mean:.3f}, the lowest of them "
        f"{found['lowest_at_random'].mean:.3f}; the best of all {found['best'].mean:.3f}; the "
        f"prompt as it is {found['incumbent'].mean:.3f}"
    )
    half = found["half_correlation"]
    return (
        f"True error of the proposals: {errors}.\n"
        f"A signal without noise would correlate by {ceiling(half.mean):.2f} "
        f"[{ceiling(half.low):.2f}, {ceiling(half.high):.2f}] with the truth as it was measured."
    )


def _stored_text(places: Sequence[Place]) -> str:
    shares = [(place.num_effective > 0).mean() for place in places]
    effective = np.concatenate([place.num_effective[place.num_effective > 0] for place in places])
    number = f"{effective.mean():.2f}" if len(effective) else "–"
    return (
        f"Rows with a right and a wrong stored reasoning: {np.mean(shares):.0%}; effective number "
        f"of these, weighted by importance: {number}."
    )


def _table_text(lines: Sequence[Line], primary: Key) -> str:
    best = f"best {SHORTLIST} − {SHORTLIST} at random"
    text = [
        f"| signal | rows | correlation with true error | p | true error, {best} | p | lowest |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        name, rows = line.key
        name = f"**{name}** (primary)" if line.key == primary else name
        first, second = (f"{p:.3f}" for p in (line.correlation_p, line.best_p))
        shown = "" if name == _WITHOUT_ROWS else rows
        text.append(
            f"| {name} | {shown} | {_shown(line.correlation, 2)} | {first} | "
            f"{_shown(line.best, 3)} | {second} | {_shown(line.lowest, 3)} |"
        )
    return "\n".join(text)


def _shown(estimate: Estimate, digits: int) -> str:
    values = (f"{v:+.{digits}f}" for v in (estimate.mean, estimate.low, estimate.high))
    mean, low, high = (value.replace("-", "−") for value in values)
    return f"{mean} [{low}, {high}]"
