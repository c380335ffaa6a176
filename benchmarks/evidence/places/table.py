"""The table of signals: what each is worth at the places of one model's chains, with intervals.

A chain's first place is not among them: it fills the store of reasonings that the others draw on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.evidence.chains import Chain, Place
from benchmarks.evidence.places.ranking import (
    SHORTLIST,
    SIGNALS,
    Errors,
    Measured,
    Ranking,
    Splits,
    ranking,
)
from benchmarks.evidence.resampling import Clusters, Doubles, Estimate, ceiling, holm, spearman
from greater_fast.config import Config
from greater_fast.search.nouns import TIE

LEAST_PLACES = 60
NUM_TRUTH = 96  # rows of the truth, fewer where the pool has fewer that no change was accepted on
NUM_TRAIN = (24, 50)
VOCABULARY = "answer gradient, lowest of the vocabulary"
_WITHOUT_ROWS = "proposal log-probability"  # a signal that reads none
# A difference that was asked for once the table had been seen.
_AFTERWARDS = ("stored reasonings re-scored", "reasoning gradient, stored")

Key = tuple[str, int]  # a signal and its number of training rows


@dataclass(frozen=True, slots=True)
class Baselines:
    """What the proposals of a place come to without a signal: true errors, mean over splits.

    `lowest_at_random` is that of the lowest of a few, `lowest` of all, `gain` what the latter has
    less than the incumbent.
    """

    half_correlation: float
    incumbent: float
    mean: float
    lowest_at_random: float
    lowest: float
    gain: float


@dataclass(frozen=True, slots=True)
class Line:
    """A signal in the table; p-values are Holm's but for the primary one and for differences."""

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
    found = _Found(used)
    parts = [
        heading,
        _baselines_text(used),
        _stored_text(used),
        _made_on_text(chains),
        _table_text("signal", _signal_lines(found, primary), primary),
        _table_text("asked for afterwards, p not corrected", _afterwards(found), primary),
    ]
    return "\n\n".join(parts)


def counted(chains: Sequence[Chain]) -> tuple[list[tuple[Chain, Place]], int]:
    """Places that count, with their chains, and how many have too few proposals to rank."""
    # At the first place of a chain no reasoning of another prompt is stored.
    places = [(chain, place) for chain in chains for place in chain.places[1:]]
    used = [(chain, place) for chain, place in places if place.from_lm.sum() > SHORTLIST]
    return used, len(places) - len(used)


def signal_lines(chains: Sequence[Chain], primary: Key) -> list[Line]:
    """The primary signal first, then the others; Holm's correction is over all that these ask."""
    used, _ = counted(chains)
    return _signal_lines(_Found(used), primary) if used else []


class _Found:
    """What all signals came to at the places of some chains."""

    def __init__(self, used: Sequence[tuple[Chain, Place]]) -> None:
        self._clusters = Clusters([chain.cluster for chain, _ in used])
        self._rankings = [dict(rankings(place, chain.num_selection)) for chain, place in used]
        self.keys = list(self._rankings[0])

    def line(self, name: str, key: Key, less: Key | None = None) -> Line:
        """A signal, or its difference to another one, place by place; p-values not corrected."""
        columns = self._columns(key)
        if less is not None:
            columns = columns - self._columns(less)
        correlation, best, lowest = (self._clusters.estimate(column) for column in columns)
        p_values = correlation.p_value, best.p_value
        return Line((name, key[1]), correlation, best, lowest, *p_values)

    def _columns(self, key: Key) -> Doubles:
        """[3, P]: correlation, best and lowest at P places."""
        own = [found[key] for found in self._rankings]
        return np.array([[r.correlation, r.best, r.lowest] for r in own]).T


def _signal_lines(found: _Found, primary: Key) -> list[Line]:
    keys = [primary, *(key for key in found.keys if key != primary)]
    first, *others = (found.line(key[0], key) for key in keys)
    adjusted = holm([p for line in others for p in (line.correlation_p, line.best_p)])
    corrected = zip(others, adjusted[::2], adjusted[1::2], strict=True)
    return [first, *(replace(line, correlation_p=p, best_p=q) for line, p, q in corrected)]


def _afterwards(found: _Found) -> list[Line]:
    name, other = _AFTERWARDS
    shown = f"{name} − {other}"
    return [found.line(shown, (name, n), less=(other, n)) for n in NUM_TRAIN]


def rankings(place: Place, num_selection: int) -> Iterator[tuple[Key, Ranking]]:
    """How each signal ranks a place's proposals, and the gradient all candidates."""
    for num_train in NUM_TRAIN:
        splits = splits_of(place, num_selection, num_train)
        is_wrong = ~place.outcomes.is_right[1:].T
        proposals = Errors.on(splits, is_wrong[:, place.from_lm])
        measured = Measured(place, splits.train, place.from_lm)
        for name, signal in SIGNALS.items():
            if name != _WITHOUT_ROWS or num_train == NUM_TRAIN[-1]:
                yield (name, num_train), ranking(signal(measured), proposals, proposals)
        everyone = Measured(place, splits.train, np.ones_like(place.from_lm))
        found = ranking(everyone.score("answer"), Errors.on(splits, is_wrong), proposals)
        yield (VOCABULARY, num_train), found


def splits_of(place: Place, num_selection: int, num_train: int) -> Splits:
    """Splits of the rows of a place's pool."""
    num_scored, num_rows = len(place.num_effective), place.outcomes.is_right.shape[1]
    num_truth = min(NUM_TRUTH, num_rows - num_selection)
    return Splits.drawn((num_selection, num_scored, num_rows), num_train, num_truth)


def baselines(place: Place, num_selection: int) -> Baselines:
    """What is true of a place's proposals, whoever ranks them."""
    splits = splits_of(place, num_selection, NUM_TRAIN[-1])
    is_wrong = ~place.outcomes.is_right.T
    errors = Errors.on(splits, is_wrong[:, 1:][:, place.from_lm])
    incumbent = float(Errors.on(splits, is_wrong[:, :1]).whole.mean())
    lowest = float(errors.lowest_of(errors.whole.shape[1]).mean())
    return Baselines(
        half_correlation=float(spearman(*errors.halves).mean()),
        incumbent=incumbent,
        mean=float(errors.whole.mean()),
        lowest_at_random=float(errors.lowest_of(SHORTLIST).mean()),
        lowest=lowest,
        gain=incumbent - lowest,
    )


def _baselines_text(used: Sequence[tuple[Chain, Place]]) -> str:
    clusters = Clusters([chain.cluster for chain, _ in used])
    bases = [baselines(place, chain.num_selection) for chain, place in used]
    found = {
        name: clusters.estimate([getattr(base, name) for base in bases])
        for name in Baselines.__slots__
    }
    errors = (
        f"{found['mean'].mean:.3f} on the mean, the lowest of {SHORTLIST} at random "
        f"{found['lowest_at_random'].mean:.3f}, the lowest of all {found['lowest'].mean:.3f}; of "
        f"the prompt as it is {found['incumbent'].mean:.3f}"
    )
    half = found["half_correlation"]
    return (
        f"True error of the proposals: {errors}.\n"
        f"The prompt as it is less the lowest of all: {_shown(found['gain'], 3)}.\n"
        f"A signal without noise would correlate by {ceiling(half.mean):.2f} "
        f"[{ceiling(half.low):.2f}, {ceiling(half.high):.2f}] with the truth as it was measured."
    )


def _stored_text(used: Sequence[tuple[Chain, Place]]) -> str:
    numbers = [place.num_effective for _, place in used]
    share = np.mean([(own > 0).mean() for own in numbers])
    effective = np.concatenate([own[own > 0] for own in numbers])
    number = f"{effective.mean():.2f}" if len(effective) else "–"
    searched: dict[Place, float] = {}
    for chain in dict.fromkeys(chain for chain, _ in used):
        searched |= zip(chain.places, shares_as_searched(chain), strict=True)
    share_searched = np.mean([searched[place] for _, place in used])
    return (
        f"Rows with a right and a wrong stored reasoning: {share:.0%}; effective number of these, "
        f"weighted by importance: {number}.\nWithout the reasonings of candidates that a search "
        f"gives up, which it does not store: {share_searched:.0%}."
    )


def shares_as_searched(chain: Chain) -> list[float]:
    """Of each place the share of rows with a right and a wrong reasoning in a search's store.

    The chain stored all prompts. A search stores those that are scored to the end: here those that
    are no worse than the incumbent on the rows of selection.
    """
    num_scored = len(chain.places[0].num_effective)
    has_right, has_wrong = np.zeros((2, num_scored), np.bool_)
    shares = []
    for place in chain.places:
        objectives = place.outcomes.objectives(slice(chain.num_selection), Config())
        is_right = place.outcomes.is_right[:, :num_scored]
        has_right, has_wrong = has_right | is_right[0], has_wrong | ~is_right[0]
        shares.append(float((has_right & has_wrong).mean()))
        stored = is_right[objectives <= objectives[0] + TIE]
        has_right, has_wrong = has_right | stored.any(0), has_wrong | ~stored.all(0)
    return shares


def _made_on_text(chains: Sequence[Chain]) -> str:
    counts = Counter(chain.made_on or "not written down" for chain in chains)
    named = "; ".join(f"{name} ({count})" for name, count in sorted(counts.items()))
    return f"Chains by what they were made on: {named}."


def _table_text(title: str, lines: Sequence[Line], primary: Key) -> str:
    best = f"true error, best {SHORTLIST} − {SHORTLIST} at random | p | lowest of the {SHORTLIST}"
    text = [
        f"| {title} | rows | correlation with true error | p | {best} |",
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
