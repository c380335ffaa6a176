"""What policies came to, as values for JSON and as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.evidence.chains import Chain
from benchmarks.evidence.policies.model import PlaceModel, fit
from benchmarks.evidence.policies.named import DEFAULT, POLICIES
from benchmarks.evidence.policies.replay import Effect, replay
from benchmarks.evidence.policies.rules import ANSWER
from benchmarks.evidence.policies.simulation import simulate
from benchmarks.evidence.resampling import Clusters, Estimate, holm

LEAST_PLACES = 60
SIMULATED = (ANSWER, "random")  # signals: the model knows the correlation of one
Found = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Effort:
    """How often things are tried, and the numbers of rollouts that simulated searches spend."""

    num_splits: int = 20
    num_searches: int = 40
    budgets: tuple[int, ...] = (2_000, 8_000, 16_000)


def compare(chains: Sequence[Chain], effort: Effort) -> dict[str, Any]:
    """All policies on the chains of one model, as plain values.

    Raises:
        ValueError: there is no place for the default policy.
    """
    usual = replay(chains, POLICIES[DEFAULT], effort.num_splits)
    if not usual:
        raise ValueError("got chains without places, or with too few rows for the default policy")
    found = {name: replay(chains, policy, effort.num_splits) for name, policy in POLICIES.items()}
    clusters = Clusters([effect.cluster for effect in usual])
    lines = {
        name: _replayed(own, usual, clusters)
        for name, own in found.items()
        if len(own) == len(usual)
    }
    others = [line for name, line in lines.items() if name != DEFAULT]
    for line, p_value in zip(others, holm([o["p_value"] for o in others]), strict=True):
        line["p_value"] = p_value
    model = fit(chains)
    return {
        "num_places": len(usual),
        "num_chains": len(chains),
        "num_clusters": len({chain.cluster for chain in chains}),
        "replayed": lines,
        "left_out": [name for name in found if name not in lines],
        "model": model.to_dict(),
        "simulated": _simulated(model, effort),
    }


def _replayed(
    effects: Sequence[Effect], usual: Sequence[Effect], clusters: Clusters
) -> dict[str, Any]:
    """A policy's line; the p-value is of no difference to the default, not corrected yet."""
    gains = -np.array([effect.change for effect in effects])
    beside = clusters.estimate(gains + np.array([effect.change for effect in usual]))
    num_rollouts = float(np.mean([effect.num_rollouts for effect in effects]))
    return {
        "gain": _interval(clusters.estimate(gains)),
        "gain_beside_default": _interval(beside),
        "p_value": beside.p_value,
        "num_rollouts": num_rollouts,
        "gain_per_1000_rollouts": _interval(clusters.estimate(gains * 1000 / num_rollouts)),
        "share_changed": float(np.mean([effect.share_changed for effect in effects])),
    }


def _interval(estimate: Estimate) -> list[float | None]:
    """Mean and ends; None for what too few clusters leave open."""
    ends = (estimate.low, estimate.high)
    return [estimate.mean, *(end if math.isfinite(end) else None for end in ends)]


def _simulated(model: PlaceModel, effort: Effort) -> dict[str, Any]:
    """Gains [budgets] of simulated searches, mean and standard error; seeds are shared."""
    found = {}
    for name, policy in POLICIES.items():
        if policy.signal in SIMULATED and policy.objective == "error":
            searches = range(effort.num_searches)
            errors = [simulate(policy, model, effort.budgets, seed) for seed in searches]
            gains = model.initial_error - np.array(errors)
            deviations = gains.std(0, ddof=1) / np.sqrt(len(gains))
            found[name] = {
                str(budget): [float(mean), float(deviation)]
                for budget, mean, deviation in zip(
                    effort.budgets, gains.mean(0), deviations, strict=True
                )
            }
    return found


def tables(found: Found) -> str:
    """The comparison of one model as text: the number of places first."""
    count = f"{found['num_places']} places of {found['num_chains']} chains"
    heading = count if found["num_places"] >= LEAST_PLACES else f"{count}: too few to conclude"
    parts = [heading, _replayed_table(found["replayed"])]
    if found["left_out"]:
        names = ", ".join(found["left_out"])
        parts.append(f"Left out, as not all places have rows enough: {names}.")
    return "\n\n".join([*parts, _simulated_table(found["model"], found["simulated"])])


def _replayed_table(lines: Found) -> str:
    rows = [
        f"{name} | {_shown(own['gain'])} | {_shown(own['gain_beside_default'])} | "
        f"{own['p_value']:.3f} | {own['num_rollouts']:.0f} | "
        f"{_shown(own['gain_per_1000_rollouts'])} | "
        f"{own['share_changed']:.0%}"
        for name, own in lines.items()
    ]
    return _table(
        "one step, replayed | gain, points of error | beside the first line | p (Holm) | "
        "rollouts | gain per 1,000 rollouts | changes",
        rows,
    )


def _simulated_table(model: Found, lines: Found) -> str:
    about = (
        f"SIMULATED searches: initial error {model['initial_error']:.3f}, effects of candidates "
        f"{model['effect']:+.3f} ± {model['deviation']:.3f}, {model['pull']:.2f} of what was "
        f"gained undone by a change, rows shared by {model['row_share']:.2f}, the gradient's "
        f"correlation with effects {model['signal_correlation']:+.2f}."
    )
    budgets = list(next(iter(lines.values())))
    rows = [
        f"{name} | "
        + " | ".join(f"{100 * mean:+.1f} ± {100 * error:.1f}" for mean, error in own.values())
        for name, own in lines.items()
    ]
    head = " | ".join(f"after {int(budget):,} rollouts" for budget in budgets)
    return f"{about}\n\n" + _table(f"gain in points of error, simulated | {head}", rows)


def _table(head: str, rows: Sequence[str]) -> str:
    line = "|---" * (head.count("|") + 1) + "|"
    return "\n".join([f"| {head} |", line, *(f"| {row} |" for row in rows)]).replace("-0.0", "0.0")


def _shown(interval: Sequence[float | None]) -> str:
    mean, low, high = ("–" if end is None else f"{100 * end:+.1f}" for end in interval)
    return f"{mean} [{low}, {high}]".replace("-", "−")
