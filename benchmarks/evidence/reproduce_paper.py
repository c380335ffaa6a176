"""The paper's table by one command: its prompts, rule and splits, beside the published figures.

    python -m benchmarks.evidence.reproduce_paper --model MODEL --data FOLDER --tasks bbh folio

FOLDER holds BBH, GSM8K and FOLIO. Cells are appended to `--out` as they end, and the command goes
on where it stopped; `--minutes 0` prints the table alone. One process a GPU: start N of them, each
with its own CUDA_VISIBLE_DEVICES and `--part 1/N` to `N/N`, and the same `--out`. `--transfer
OTHER` tries the prompts that were found on another model, without a search.
"""

from __future__ import annotations

import argparse
import logging
import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.evidence.paper.cells import SEARCHES, Cell, Log, Outcome, Settings
from benchmarks.evidence.paper.tasks import BENCHMARKS, Task, found_tasks, shortfalls
from benchmarks.harness.machine import kind_of_device
from greater_fast import evaluate, optimize
from greater_fast.api import DEFAULT_PROMPT
from greater_fast.model.lm import load_lm
from greater_fast.runs.evaluation import Evaluation
from greater_fast.runs.statistics import wilson_interval

_Z = 1.96  # of 95%
COLUMNS = {"initial": "initial prompt", "greater": "GReaTer", "random": "random shortlist"}


def searched(model: Any, task: Task, cell: Cell, settings: Settings) -> Outcome:
    """Search a prompt on a task's training rows, and compare it with the initial one in the test.

    Raises:
        ValueError: the task's files cannot be read, or the run does not fit; says why.
    """
    sizes, start = settings.sizes(cell.benchmark), time.perf_counter()
    splits = task.splits(sizes, cell.seed)
    with tempfile.TemporaryDirectory() as folder:
        result = optimize(
            *(model, splits.train, splits.dev),
            prompt=DEFAULT_PROMPT,
            test=splits.test,
            config=settings.config(cell),
            run_dir=Path(folder) / "run",
        )
    if result.best.test is None or result.baseline.test is None:
        raise KeyboardInterrupt  # what was found until then is no cell of the table
    return Outcome(
        prompt=result.best.prompt,
        initial_correct=result.baseline.test.num_correct,
        num_correct=result.best.test.num_correct,
        num_rows=result.best.test.num_rows,
        num_steps=len(result.steps),
        seconds=time.perf_counter() - start,
        shortfalls=tuple(shortfalls(splits, sizes)),
        extractor=result.extractor,
    )


def transferred(model: Any, task: Task, cell: Cell, found: Outcome, settings: Settings) -> Outcome:
    """A prompt that was found on one model, and the initial one, on another model's test rows.

    The answer is asked for as it was in the search.
    """
    sizes, start = settings.sizes(cell.benchmark), time.perf_counter()
    splits = task.splits(sizes, cell.seed)
    report = evaluate(
        *(model, splits.test),
        prompt=found.prompt,
        against=DEFAULT_PROMPT,
        config=replace(settings.config(cell), extractor=found.extractor),
    )
    assert isinstance(report.against, Evaluation)
    return Outcome(
        prompt=found.prompt,
        initial_correct=report.against.num_correct,
        num_correct=report.evaluation.num_correct,
        num_rows=report.evaluation.num_rows,
        seconds=time.perf_counter() - start,
        shortfalls=tuple(shortfalls(splits, sizes)),
        extractor=found.extractor,
    )


def run_cells(
    tasks: Sequence[Task], log: Log, seeds: int, transfer: str | None, stop_at: float
) -> Iterator[Cell]:
    """Run what is not done yet, each cell as it ends; none that would likely end too late.

    `stop_at` is in seconds of `time.monotonic`. A transfer waits for its search, which may have
    been done on another kind of device.
    """
    settings, model, longest = log.settings, None, 0.0
    sources = log.of_any_device if transfer else {}
    for seed in range(seeds):
        for task in tasks:
            for search in SEARCHES:
                cell = Cell(
                    benchmark=task.benchmark,
                    task=task.name,
                    seed=seed,
                    search=search,
                    rows=task.digest,
                )
                source = sources.get(cell)
                if transfer:
                    cell = Cell(**asdict(cell) | {"transferred_to": transfer})
                if cell in log.outcomes or (transfer and source is None):
                    continue
                start = time.monotonic()
                if start + longest > stop_at:
                    return
                model = model or load_lm(transfer or settings.model)
                if transfer:
                    assert source is not None
                    outcome = transferred(model, task, cell, source, settings)
                else:
                    outcome = searched(model, task, cell, settings)
                log.add(cell, outcome)
                longest = max(longest, time.monotonic() - start)
                yield cell


def check_rows(log: Log, tasks: Sequence[Task]) -> None:
    """Refuse a log that has cells of a task's name and other rows.

    Raises:
        ValueError: it has some.
    """
    digests = {(task.benchmark, task.name): task.digest for task in tasks}
    for cell in log.of_any_device:
        if cell.rows != digests.get((cell.benchmark, cell.task), cell.rows):
            raise ValueError(
                f"{log.path} has cells of {cell.task} with other rows: name another --out, or the "
                "folder that they come from"
            )


def check_transfer(log: Log, tasks: Sequence[Task]) -> None:
    """Refuse to transfer where nothing was found yet.

    Raises:
        ValueError: no task has been searched with these settings, on any kind of device.
    """
    known = {(task.benchmark, task.name, task.digest) for task in tasks}
    searched = [cell for cell in log.of_any_device if cell.transferred_to is None]
    if not any((cell.benchmark, cell.task, cell.rows) in known for cell in searched):
        raise ValueError(
            f"--transfer: {log.path} has no prompt of these tasks that was found with these "
            "settings: search first, by the same command without --transfer"
        )


def table(log: Log, transfer: str | None = None) -> str:
    """Accuracy by benchmark with 95% intervals, the published figures, and what is not the paper's.

    A task counts where both searches are done with it; its accuracy is the mean of its seeds. Of
    several tasks it is the mean of these, as the paper's, with a normal interval whose variances
    are those of Wilson's centres; of one, Wilson's. Seeds of a task share test rows, all or some,
    so that intervals are of the rows that one seed has: of several they are rather too wide.
    """
    lines = [
        f"| benchmark | tasks | seeds | {' | '.join(COLUMNS.values())} | published |",
        "|---|---|---|---|---|---|---|",
    ]
    notes: list[str] = []
    for benchmark in BENCHMARKS.values():
        done = _done(log, benchmark.name, transfer)
        figures = [_figure(_accuracies(done, column)) for column in COLUMNS]
        published = "; ".join(
            f"{model} {p.initial} → {p.greater}" for model, p in benchmark.published.items()
        )
        seeds = Counter(task for task, _ in done).values()
        tasks = f"{len(seeds)} of {benchmark.num_tasks}"
        least, most = min(seeds, default=0), max(seeds, default=0)
        num_seeds = str(most) if least == most else f"{least} to {most}"
        row = (benchmark.name, tasks, num_seeds, *figures, published)
        lines.append(f"| {' | '.join(row)} |")
        for (task, seed), outcomes in done.items():
            if seed == min(s for t, s in done if t == task) and outcomes["greater"].shortfalls:
                notes.append(f"{task}: {', '.join(outcomes['greater'].shortfalls)}")
    if log.settings.departures:
        lines += ["", f"Not the published settings: {', '.join(log.settings.departures)}."]
    if notes:
        lines += ["", f"Rows fall short of the paper's: {'; '.join(notes)}."]
    return "\n".join(lines)


_Done = dict[tuple[str, int], dict[str, Outcome]]


def _done(log: Log, benchmark: str, transfer: str | None) -> _Done:
    """Outcomes by search of each task and seed that both are done with."""
    found: _Done = {}
    for cell, outcome in log.outcomes.items():
        if cell.benchmark == benchmark and cell.transferred_to == transfer:
            found.setdefault((cell.task, cell.seed), {})[cell.search] = outcome
    return {key: outcomes for key, outcomes in sorted(found.items()) if len(outcomes) == 2}


def _accuracies(done: _Done, column: str) -> list[tuple[float, int]]:
    """Of each task the mean accuracy of its seeds, and the rows that one of them has."""
    seeds: dict[str, list[tuple[int, int]]] = {}
    for (task, _), outcomes in done.items():
        outcome = outcomes["greater" if column == "initial" else column]
        right = outcome.initial_correct if column == "initial" else outcome.num_correct
        seeds.setdefault(task, []).append((right, outcome.num_rows))
    return [
        (fmean(right / rows for right, rows in own), min(rows for _, rows in own))
        for own in seeds.values()
    ]


def _figure(shares: Sequence[tuple[float, int]]) -> str:
    if not shares:
        return "–"
    if len(shares) == 1:
        ((mean, rows),) = shares
        low, high = wilson_interval(round(mean * rows), rows)
    else:
        mean = sum(share for share, _ in shares) / len(shares)
        variance = sum(_variance(share, rows) for share, rows in shares) / len(shares) ** 2
        low, high = (mean + side * _Z * math.sqrt(variance) for side in (-1, 1))
    return f"{mean:.1%} [{max(0.0, low):.1%}, {min(1.0, high):.1%}]"


def _variance(share: float, rows: int) -> float:
    """Of an accuracy on so many rows, at the centre of Wilson's interval: never 0."""
    centre = (share * rows + _Z**2 / 2) / (rows + _Z**2)
    return centre * (1 - centre) / rows


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.reproduce_paper")
    parser.add_argument("--model", required=True, help="what load_lm takes")
    parser.add_argument("--data", type=Path, required=True, help="folder with BBH, GSM8K, FOLIO")
    parser.add_argument("--tasks", nargs="+", default=list(BENCHMARKS), choices=list(BENCHMARKS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("reproduce.jsonl"), help="lines of cells")
    parser.add_argument("--minutes", type=float, default=math.inf, help="0 prints the table alone")
    parser.add_argument("--part", default="1/1", help="i/n: every n-th task, from the i-th on")
    parser.add_argument("--transfer", metavar="MODEL", help="try the prompts found on another one")
    parser.add_argument("--objective", default="error", choices=["error", "loss"])
    parser.add_argument("--steps", type=int, default=105)
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--max-rows", type=int, help="of a split at most: for a trial run")
    asked = parser.parse_args(arguments)
    settings = Settings(
        model=asked.model,
        device=kind_of_device(),
        objective=asked.objective,
        steps=asked.steps,
        max_new_tokens=asked.max_new_tokens,
        max_rows=asked.max_rows,
    )
    try:
        part, of = map(int, asked.part.split("/"))
        tasks = [t for name in asked.tasks for t in found_tasks(asked.data, BENCHMARKS[name])]
        log = Log(asked.out, settings)
        check_rows(log, tasks)
        if asked.transfer and asked.minutes > 0:
            check_transfer(log, tasks)
    except ValueError as error:
        parser.error(str(error))
    if asked.minutes > 0:
        logging.disable(logging.INFO)
        stop_at = time.monotonic() + 60 * asked.minutes
        mine = tasks[part - 1 :: of]
        for cell in run_cells(mine, log, asked.seeds, asked.transfer, stop_at):
            found = log.outcomes[cell]
            print(
                f"{cell.task}, seed {cell.seed}, {COLUMNS[cell.search]}: {found.initial_correct} → "
                f"{found.num_correct} of {found.num_rows}, {found.seconds / 60:.1f} min",
                flush=True,
            )
    print("\n".join(log.damage))
    for own in log.of_devices or [log]:
        print(f"On {own.settings.device}:\n\n{table(own, asked.transfer)}\n")


if __name__ == "__main__":
    main()
