"""Level and power of races, by simulation: which bet drops soonest what is worse, and what else?

    python -m benchmarks.evidence.racing --out benchmarks/results/racing.json --plots docs/figures

No model is run. A third of the rows comes out alike whatever the prompt; on the others each prompt
errs by itself. The incumbent errs on 40% of all rows, a candidate on so many more (the gap). Where
the incumbent was selected, it is the best of several equally good prompts on these same rows.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.plots import Line, line_plot

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
# From where R candidates and their incumbents are wrong [R, N] to where a race drops them [R, N].
Rule = Callable[[Bools, Bools, float], Bools]

ALIKE, ERROR = 1 / 3, 0.4
NUM_ROWS, GAPS, BEST_OF = (24, 50, 100, 200), (0.05, 0.1, 0.2, 0.3), (4, 16, 64)
BLOCK = 10  # rows between two looks of the repeated t-test


@dataclass(frozen=True, slots=True)
class Cell:
    """What a rule does in one setting; shares of the simulated candidates, and of the rows.

    `dropped` were dropped by the rule alone, `lost` of them though they had fewer of all rows wrong
    than the incumbent. `rows` were taken until a candidate was dropped or, by the exact bound,
    given up; by the bound alone it would have been `rows_by_bound`.
    """

    rule: str
    num_rows: int
    gap: float
    best_of: int
    dropped: float
    lost: float
    rows: float
    rows_by_bound: float


def counts(wrong: Bools, incumbent: Bools) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows lost and won until each row [R, N]: those that one of the two alone has wrong."""
    return (wrong & ~incumbent).cumsum(1), (incumbent & ~wrong).cumsum(1)


def fixed(bet: float) -> Rule:
    """The same share of the wealth each time."""

    def rule(wrong: Bools, incumbent: Bools, alpha: float) -> Bools:
        lost, won = counts(wrong, incumbent)
        return lost * math.log1p(bet) + won * math.log1p(-bet) >= -math.log(alpha)

    return rule


def mixture(wrong: Bools, incumbent: Bools, alpha: float) -> Bools:
    """A wealth spread evenly over all fixed bets from 0 to 1 (beta-binomial, in closed form)."""
    lost, won = counts(wrong, incumbent)
    table = mixed_wealth(wrong.shape[1])
    return table[lost, won] >= -math.log(alpha)


def mixed_wealth(most: int) -> Floats:
    """Logarithm of the mean over b in [0, 1] of (1 + b)^lost (1 - b)^won [lost, won].

    sum_{j <= lost} C(n + 1, j) / ((n + 1) C(n, lost)), n = lost + won.
    """
    log_factorial = np.array([math.lgamma(n + 1) for n in range(2 * most + 2)])
    found = np.zeros((most + 1, most + 1))
    for n in range(2 * most + 1):
        j = np.arange(n + 1)
        above = log_factorial[n + 1] - log_factorial[j] - log_factorial[n + 1 - j]
        below = log_factorial[n] - log_factorial[j] - log_factorial[n - j]
        own = j[(j <= most) & (n - j <= most)]
        wealth = np.logaddexp.accumulate(above) - math.log(n + 1) - below
        found[own, n - own] = wealth[own]
    return found


def estimated(wrong: Bools, incumbent: Bools, alpha: float) -> Bools:
    """The best fixed bet on the rows before (Krichevsky and Trofimov), never on the candidate.

    For outcomes of +1 and -1 it is that of aGRAPA, but for the first rows.
    """
    lost, won = counts(wrong, incumbent)
    outcome = wrong.astype(float) - incumbent  # +1 lost, -1 won, 0 alike
    before = np.maximum(lost - won, 0) / (lost + won + 1)
    bet = np.hstack([np.zeros((len(wrong), 1)), before[:, :-1]])
    happens: Bools = np.log1p(bet * outcome).cumsum(1) >= -math.log(alpha)
    return happens


def repeated_t_test(wrong: Bools, incumbent: Bools, alpha: float) -> Bools:
    """A paired one-sided t-test of all rows so far after each block, as CAPO does it."""
    outcome = wrong.astype(float) - incumbent
    num = np.arange(1, wrong.shape[1] + 1)
    mean = outcome.cumsum(1) / num
    variance = ((outcome**2).cumsum(1) - num * mean**2) / np.maximum(num - 1, 1)
    t = mean * np.sqrt(num) / np.sqrt(np.maximum(variance, 1e-12))
    critical = np.array([t_quantile(1 - alpha, n - 1) if n % BLOCK == 0 else np.inf for n in num])
    happens: Bools = t > critical
    return happens


def t_quantile(p: float, df: int) -> float:
    """Of Student's t, by three terms of its expansion (Abramowitz and Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(p)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / df + second / df**2 + third / df**3


RULES: dict[str, Rule] = {
    "bet 1/4": fixed(0.25),
    "bet 1/2": fixed(0.5),
    "bet 3/4": fixed(0.75),
    "mixture of all bets": mixture,
    "estimated bet": estimated,
    "repeated t-test": repeated_t_test,
}
CHOSEN = "bet 3/4"  # of the bets that keep their level, the one that takes fewest rows


def outcomes(
    num_runs: int, num_rows: int, gap: float, best_of: int, source: np.random.Generator
) -> tuple[Bools, Bools]:
    """Whether candidates are wrong, and incumbents, the best of several on the same rows [R, N]."""
    alike = source.random((num_runs, num_rows)) < ALIKE
    shared = source.random((num_runs, num_rows)) < ERROR

    def of_prompts(error: float) -> Bools:
        own = source.random((num_runs, num_rows)) < error
        return np.where(alike, shared, own)

    incumbent = of_prompts(ERROR)
    for _ in range(best_of - 1):
        other = of_prompts(ERROR)
        better = other.sum(1) < incumbent.sum(1)
        incumbent = np.where(better[:, None], other, incumbent)
    return of_prompts(ERROR + gap / (1 - ALIKE)), incumbent


def first(happens: Bools) -> NDArray[np.int64]:
    """Rows until something happens, all of them where it does not [R]."""
    found: NDArray[np.int64] = np.where(happens.any(1), happens.argmax(1) + 1, happens.shape[1])
    return found


def simulated(
    num_rows: int, gap: float, best_of: int, num_runs: int, alpha: float
) -> Iterable[Cell]:
    """A cell for each rule, on the same candidates."""
    source = np.random.default_rng([num_rows, round(100 * gap), best_of])
    wrong, incumbent = outcomes(num_runs, num_rows, gap, best_of, source)
    is_better = wrong.sum(1) < incumbent.sum(1)
    over = wrong.cumsum(1) > incumbent.sum(1)[:, None]
    for name, rule in RULES.items():
        happens = rule(wrong, incumbent, alpha)
        dropped = happens.any(1)
        yield Cell(
            rule=name,
            num_rows=num_rows,
            gap=gap,
            best_of=best_of,
            dropped=round(float(dropped.mean()), 4),
            lost=round(float((dropped & is_better).mean()), 4),
            rows=round(float(first(happens | over).mean() / num_rows), 4),
            rows_by_bound=round(float(first(over).mean() / num_rows), 4),
        )


def simulate(num_runs: int, alpha: float) -> dict[str, Any]:
    """All cells: equals with an incumbent that was not selected and that was, and worse ones."""
    settings = [(0.0, 1), *((0.0, k) for k in BEST_OF), *((gap, 1) for gap in GAPS)]
    cells = [
        asdict(cell)
        for num_rows in NUM_ROWS
        for gap, best_of in settings
        for cell in simulated(num_rows, gap, best_of, num_runs, alpha)
    ]
    return {"alpha": alpha, "num_runs": num_runs, "cells": cells}


def mean_worse(found: dict[str, Any], field: str) -> dict[str, float]:
    """A field's mean over all worse candidates, of each gap and number of rows, for each rule."""
    return {
        rule: fmean(c[field] for c in found["cells"] if c["rule"] == rule and c["gap"] > 0)
        for rule in RULES
    }


def tables(found: dict[str, Any]) -> str:
    """What was found, as Markdown."""

    def cell(rule: str, num_rows: int, gap: float, best_of: int = 1) -> dict[str, Any]:
        keys = {"rule": rule, "num_rows": num_rows, "gap": gap, "best_of": best_of}
        return next(c for c in found["cells"] if keys.items() <= c.items())

    def line(*cells: str) -> str:
        return f"| {' | '.join(cells)} |"

    def table(name: str, rows: dict[str, list[str]], *more: str) -> list[str]:
        head = [name, *(f"{n} rows" for n in NUM_ROWS), *more]
        return [line(*head), "|---" * len(head) + "|", *(line(n, *r) for n, r in rows.items()), ""]

    def shares(rule: str, gap: float, best_of: int = 1) -> list[str]:
        return [f"{cell(rule, n, gap, best_of)['dropped']:.1%}" for n in NUM_ROWS]

    power, rows = mean_worse(found, "dropped"), mean_worse(found, "rows")
    level = {rule: shares(rule, 0.0) for rule in RULES}
    worse = {
        rule: [*shares(rule, 0.2), f"{power[rule]:.1%}", f"{rows[rule]:.1%}"] for rule in RULES
    }
    selected = {
        f"{'best of ' + str(k) if k > 1 else 'not selected'}": [
            f"{c['dropped']:.1%} ({c['lost']:.1%})"
            for c in (cell(CHOSEN, n, 0.0, k) for n in NUM_ROWS)
        ]
        for k in (1, *BEST_OF)
    }
    cost = {
        f"{gap:+.0%}": [
            f"{c['dropped']:.0%}; {c['rows']:.0%} ({c['rows_by_bound']:.0%})"
            for c in (cell(CHOSEN, n, gap) for n in NUM_ROWS)
        ]
        for gap in (0.0, *GAPS)
    }
    gaps = {f"{gap:+.0%}": (gap,) for gap in GAPS} | {"all of these": GAPS}
    spared = {
        name: [_ratio([cell(CHOSEN, n, gap) for gap in own]) for n in NUM_ROWS]
        for name, own in gaps.items()
    }
    return "\n".join(
        [
            *table("equally good: dropped by", level),
            *table("error 20 points higher: dropped by", worse, "mean of all gaps", "rows taken"),
            *table(f"equally good, {CHOSEN}; incumbent", selected),
            *table(f"{CHOSEN}; error of the candidate", cost),
            *table("rows with the race, of those by the bound alone", spared),
        ]
    )


def _ratio(cells: Sequence[dict[str, Any]]) -> str:
    """Rows that candidates take with the race, over those by the bound alone."""
    return f"{fmean(c['rows'] for c in cells) / fmean(c['rows_by_bound'] for c in cells):.2f}"


def draw(found: dict[str, Any], folder: Path) -> None:
    """The rows that a race takes, and those by the bound alone, over the candidate's error."""
    lines = []
    for num_rows in (NUM_ROWS[1], NUM_ROWS[-1]):
        own = {"rule": CHOSEN, "num_rows": num_rows, "best_of": 1}
        cells = [c for c in found["cells"] if own.items() <= c.items()]
        cells.sort(key=lambda c: c["gap"])
        gaps = [100 * c["gap"] for c in cells]
        for field, name in (("rows_by_bound", "bound alone"), ("rows", "race")):
            shares = [100 * c[field] for c in cells]
            lines.append(Line(f"{num_rows} rows, {name}", gaps, shares, shares, shares))
    line_plot(
        folder / "racing.svg",
        lines,
        title="Rows that a candidate takes until it is given up or dropped",
        x_label="error of the candidate less that of the incumbent (points)",
        y_label="% of the rows",
    )


def main() -> None:
    """Simulate, write down, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file for what was found")
    parser.add_argument("--plots", type=Path, help="folder for a figure of the rows taken")
    parser.add_argument("--runs", type=int, default=20_000, help="candidates simulated in a cell")
    parser.add_argument("--alpha", type=float, default=0.05)
    given = parser.parse_args()
    found = simulate(given.runs, given.alpha)
    print(tables(found), end="")
    if given.plots:
        draw(found, given.plots)
    if given.out:
        lines = ",\n".join(json.dumps(cell) for cell in found.pop("cells"))
        text = json.dumps({**found, "cells": []}).replace("[]", f"[\n{lines}\n]")
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
