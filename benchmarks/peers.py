"""GReaTer beside CAPO, OPRO and EvoPrompt of promptolution: one task, one model, one rule to end.

    pip install -e ".[dev,promptolution]"
    python -m benchmarks.peers --minutes 60   # goes on where it stopped
    python -m benchmarks.peers --minutes 0    # prints the table alone

All arms are given the same ten prompts and the same rows. The best of these prompts on all training
rows is a control, whatever that takes. The others have the same budget of generated tokens: those
of the rows that they evaluate, and those of the meta model, which is the same small model,
sampling. What they spend is not equal. A step in which the budget ends is finished: CAPO races over
blocks in one, and may go far over, as the table says. What generates nothing is free: reading a
prompt, and GReaTer's passes for proposals and gradients. Forward tokens in the table have all that
is read and generated, and passes for proposals; those for gradients are in the seconds alone.

Answers are had as by `evaluate`: the reasoning, then the answer behind an extractor, by
all arms alike. Otherwise each peer has the settings of promptolution's own experiments: the first
block of 30 rows for OPRO and EvoPrompt, races over blocks and few shots for CAPO, which takes a
tenth of the rows for its shots. GReaTer searches on 50 of the rows, the control on all.

No step begins once the budget is spent. Then the best prompts by an arm's own scores, and the first
of those that were given, are compared on development rows, beside the budget; the best of them is
tested on unseen rows. The seed is the unit of the intervals. A cell that fails is told, and tried
again by the next call; then the exit status is 1.
"""

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.evidence.chains import model_name
from benchmarks.evidence.effect_cells import Budget, Cell, Log, Outcome
from benchmarks.evidence.effect_intervals import Interval, pooled_interval
from benchmarks.evidence.effect_table import budgets_of, differences, of_arm
from benchmarks.evidence.peers.arms import ARMS, SEARCHES, Bench, PeerSettings
from benchmarks.harness.machine import kind_of_device
from greater_fast.examples.tasks import TASKS
from greater_fast.model.lm import load_lm

LEAST_SEEDS = 4  # of every search
_SMOKE: dict[str, Any] = {
    "num_train": 50,
    "num_dev": 4,
    "num_test": 6,
    "num_searched": 4,
    "num_block": 5,
    "num_finalists": 2,
    "max_new_tokens": 4,
    "max_meta_tokens": 8,
}
_SMOKE_TOKENS = 400
# Settings that the command line gives; answers are held to the gold ones by equality alone.
_OPTIONS = [f.name for f in fields(PeerSettings) if f.name not in ("device", "metric")]
FOLDER = Path("benchmarks/results/peers")


def cells_of(task: str, seeds: Sequence[int], arms: Sequence[str], budget: Budget) -> list[Cell]:
    """All cells, one seed after the other; the given prompts are tried whatever that takes."""
    return [
        Cell(task=task, seed=seed, arm=arm, budget=budget if arm in SEARCHES else Budget())
        for seed in seeds
        for arm in ARMS
        if arm in arms
    ]


def run_cells(
    bench: Bench, cells: Sequence[Cell], log: Log, stop_at: float
) -> Iterator[tuple[Cell, Exception | None]]:
    """Run what is not done yet, each cell as it ends; none that would likely end too late.

    Beside a cell that failed, which is not in the log, stands its error.

    `stop_at` is in seconds of `time.monotonic`.
    """
    longest = 0.0
    for cell in cells:
        begun = time.monotonic()
        if cell in log.outcomes:
            continue
        if begun + longest > stop_at:
            return
        failed = None
        try:
            outcome = bench.run(cell)
        except (RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
            failed = error
        else:
            log.add(cell, outcome)
        longest = max(longest, time.monotonic() - begun)
        yield cell, failed


def report(outcomes: Mapping[Cell, Outcome], task: str, title: str) -> str:
    """Accuracy by arm, paired differences over seeds, and costs, for each budget."""
    parts = [_part(outcomes, task, title, budget) for budget in budgets_of(outcomes)]
    return "\n\n".join(parts) or f"{title}: no search is done"


def _part(outcomes: Mapping[Cell, Outcome], task: str, title: str, budget: Budget) -> str:
    lines = []
    for arm, name in ARMS.items():
        found = list(of_arm(outcomes, task, arm, budget).values())
        if not found:
            continue
        against = {
            other: pooled_interval([differences(outcomes, task, (arm, other), budget)])
            for other in ("initial", "greater")
        }
        costs = [
            fmean(o.search.tokens for o in found),
            fmean(o.search.forward_tokens for o in found),
            fmean(o.finals.tokens for o in found),
            fmean(o.search.seconds for o in found),
            fmean(o.num_steps_at_work for o in found),
            fmean(o.num_candidates for o in found),
        ]
        lines.append(
            [
                name,
                f"{fmean(o.accuracy for o in found):.1%}",
                *(_points(own) if arm != other else "–" for other, own in against.items()),
                str(len(found)),
                _most_over(found, budget) if arm in SEARCHES else "–",
                *(f"{mean:,.0f}" for mean in costs),
            ]
        )
    titles = ["accuracy", "points over the first prompt, 95%", "points over GReaTer, 95%", "seeds"]
    titles += [
        "over the budget, at most",
        "tokens, search",
        "forward tokens",
        "finals",
        "seconds, search",
        "steps",
        "candidates",
    ]
    rows = [["", *titles], ["---"] * (len(titles) + 1), *lines]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    fewest = min(len(of_arm(outcomes, task, arm, budget)) for arm in SEARCHES)
    few = f"Too few to conclude: {fewest} seeds of a search, {LEAST_SEEDS} are the least.\n\n"
    return f"{title}, {task}, {budget}\n\n{few if fewest < LEAST_SEEDS else ''}{table}"


def _points(found: Interval | None) -> str:
    if found is None:
        return "–"
    return f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def _most_over(found: Sequence[Outcome], budget: Budget) -> str:
    """By what share of the budget the dearest search is over it, or under."""
    return f"{max(o.search.tokens for o in found) / budget.amount - 1:+.0%}"


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 where a cell failed, 0 otherwise."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    if asked.smoke and asked.out.resolve() == FOLDER.resolve():
        parser.error(f"--out: got {FOLDER} for tiny sizes, which measure nothing")
    given = {name: getattr(asked, name) for name in _OPTIONS}
    given["model"] = model_name(asked.model)  # a folder's place is nobody's business
    settings = PeerSettings(**given, device=kind_of_device())
    amount, seeds, minutes = asked.tokens, asked.seeds, asked.minutes
    if asked.smoke:
        settings = replace(settings, **_SMOKE)
        amount, seeds = min(amount, _SMOKE_TOKENS), seeds[:1]
    cells = cells_of(asked.task, seeds, asked.arms, Budget("tokens", amount))
    failed: list[Cell] = []
    stop_at, log = time.monotonic() + 60 * minutes, Log(asked.out, settings)
    if minutes > 0 and any(cell not in log.outcomes for cell in cells):
        logging.getLogger("promptolution").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", "all .* training rows are", RuntimeWarning)
        bench = Bench(load_lm(asked.model), settings)
        waiting = [cell for cell in cells if cell.arm == "greater" and cell not in log.outcomes]
        for cell in waiting[:1]:
            bench.check_given(cell)
        for cell, error in run_cells(bench, cells, log, stop_at):
            if error is not None:
                failed.append(cell)
                print(f"seed {cell.seed}, {ARMS[cell.arm]}: failed: {error!r}", flush=True)
                continue
            done = log.outcomes[cell]
            seconds = done.search.seconds + done.finals.seconds
            print(f"seed {cell.seed}, {ARMS[cell.arm]}: {done.accuracy:.1%}, ", end="")
            print(f"{done.search.tokens:,} tokens, {seconds:.0f} s", flush=True)
    title = f"{settings.model}, {settings.device}"
    print("\n".join([*log.damage, report(log.outcomes, asked.task, title)]))
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of cells")
    parser.add_argument("--minutes", type=float, default=60.0, help="0 prints the table alone")
    parser.add_argument("--smoke", action="store_true", help="that all of it runs: tiny sizes")
    parser.add_argument("--task", default="object_counting", choices=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(8)))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--tokens", type=int, default=150_000, help="generated, a search")
    for name, value in asdict(PeerSettings()).items():
        if name in _OPTIONS:
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    return parser


if __name__ == "__main__":
    sys.exit(main())
