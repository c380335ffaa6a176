"""Does it work? Test accuracy of GReaTer beside its controls, at equal budgets: by hand, long.

    python -m benchmarks.evidence.effect --minutes 60 --out effect.jsonl  # goes on where it stopped

Every seed draws its own training, development and test rows of each task. The budget is the number
of candidate prompts that are evaluated on the training rows: the search sets it, the controls keep
to it. Lines are appended as cells are done, and a table is printed of what there is so far.
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.evidence.random_prompts import best_of_random
from greater_fast import Config, optimize
from greater_fast.api import DEFAULT_PROMPT
from greater_fast.examples.splits import Splits, make_splits
from greater_fast.examples.tasks import TASKS, generate
from greater_fast.model.lm import LM, load_lm
from greater_fast.model.smollm2 import SMOLLM2
from greater_fast.runs.evaluation import Evaluation
from greater_fast.runs.statistics import wilson_interval

METHODS = {
    "initial": "initial prompt",
    "gradient": "GReaTer",
    "random": "random shortlist",
    "best_of_n": "best of n random prompts",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What all cells share; lines of other settings are left alone."""

    model: str = SMOLLM2
    steps: int = 10
    num_train: int = 16
    num_dev: int = 48
    num_test: int = 200
    num_finalists: int = 4
    max_new_tokens: int = 96

    def config(self, seed: int, shortlist: str = "gradient") -> Config:
        """Settings of a run."""
        return Config(
            steps=self.steps,
            num_train=self.num_train,
            num_dev=self.num_dev,
            num_finalists=self.num_finalists,
            max_new_tokens=self.max_new_tokens,
            shortlist=shortlist,
            seed=seed,
        )

    def splits(self, task: str, seed: int) -> Splits:
        """Rows of a cell, no question in two of the sets."""
        rows = generate(task, self.num_train + self.num_dev + self.num_test, seed)
        first, second = self.num_train, self.num_train + self.num_dev
        return make_splits(
            rows[:first],
            rows[first:second],
            rows[second:],
            num_train=self.num_train,
            num_dev=self.num_dev,
            seed=seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One method on one task with one seed."""

    task: str
    seed: int
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a cell came to on the test rows, and how many candidates it evaluated in training."""

    prompt: str
    num_correct: int
    num_rows: int
    num_candidates: int
    seconds: float = 0.0


class Log:
    """Finished cells, in a file of JSON lines."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path, self._settings = path, asdict(settings)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines()]
        self.outcomes = {
            Cell(**line["cell"]): Outcome(**line["outcome"])
            for line in lines
            if line["settings"] == self._settings
        }

    def add(self, cell: Cell, outcome: Outcome) -> None:
        """Write a cell down at once."""
        line = {"cell": asdict(cell), "settings": self._settings, "outcome": asdict(outcome)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.outcomes[cell] = outcome


def run_cells(
    lm: LM, settings: Settings, cells: Sequence[Cell], log: Log, stop_at: float
) -> Iterator[Cell]:
    """Run what is not done yet, each cell as it ends; none that would likely end too late.

    `stop_at` is in seconds of `time.monotonic`.
    """
    longest = 0.0
    for cell in cells:
        if cell in log.outcomes:
            continue
        if time.monotonic() + longest > stop_at:
            return
        start = time.monotonic()
        found = run_cell(lm, settings, cell, log)
        seconds = time.monotonic() - start
        longest = max(longest, seconds)
        for method, outcome in found.items():
            done = Cell(task=cell.task, seed=cell.seed, method=method)
            if done not in log.outcomes:
                log.add(done, Outcome(**asdict(outcome) | {"seconds": seconds}))
        yield cell


def run_cell(lm: LM, settings: Settings, cell: Cell, log: Log) -> dict[str, Outcome]:
    """Outcomes by method: the cell's own, and the initial prompt's where the run measures it."""
    splits = settings.splits(cell.task, cell.seed)
    config = settings.config(cell.seed, "random" if cell.method == "random" else "gradient")
    if cell.method == "best_of_n":
        searched = Cell(task=cell.task, seed=cell.seed, method="gradient")
        num = log.outcomes[searched].num_candidates
        evaluation = best_of_random(lm, splits, DEFAULT_PROMPT, num, config)
        return {"best_of_n": _outcome(evaluation, num)}
    with tempfile.TemporaryDirectory() as folder:
        result = optimize(
            lm,
            splits.train,
            splits.dev,
            test=splits.test,
            config=config,
            run_dir=Path(folder) / "run",
        )
    assert result.best.test is not None
    assert result.baseline.test is not None
    num = sum(len(step.trials) for step in result.steps)
    return {
        "initial": _outcome(result.baseline.test, 0),
        cell.method: _outcome(result.best.test, num),
    }


def _outcome(evaluation: Evaluation, num_candidates: int) -> Outcome:
    return Outcome(
        prompt=evaluation.prompt,
        num_correct=evaluation.num_correct,
        num_rows=evaluation.num_rows,
        num_candidates=num_candidates,
    )


def table(log: Log, tasks: Sequence[str]) -> str:
    """Accuracy by task and method, rows of all seeds pooled, with 95% intervals (Wilson).

    A seed counts where all methods are done with it: the methods have the same rows.
    """
    lines = [
        f"| task | seeds | {' | '.join(METHODS.values())} |",
        f"|---|---|{'---|' * len(METHODS)}",
    ]
    done: list[tuple[str, int]] = []
    for task in tasks:
        seeds = sorted({cell.seed for cell in log.outcomes if cell.task == task})
        own = [(task, seed) for seed in seeds if _is_done(log, task, seed)]
        done += own
        lines.append(f"| {task} | {len(own)} | {_accuracies(log, own)} |")
    lines.append(f"| all | {len(done)} | {_accuracies(log, done)} |")
    return "\n".join(lines)


def _is_done(log: Log, task: str, seed: int) -> bool:
    return all(Cell(task=task, seed=seed, method=method) in log.outcomes for method in METHODS)


def _accuracies(log: Log, done: Sequence[tuple[str, int]]) -> str:
    cells = []
    for method in METHODS:
        found = [log.outcomes[Cell(task=task, seed=seed, method=method)] for task, seed in done]
        right, rows = (sum(getattr(o, name) for o in found) for name in ("num_correct", "num_rows"))
        if rows == 0:
            cells.append("–")
            continue
        low, high = wilson_interval(right, rows)
        cells.append(f"{right / rows:.1%} [{low:.1%}, {high:.1%}]")
    return " | ".join(cells)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.effect")
    parser.add_argument("--out", type=Path, default=Path("effect.jsonl"), help="lines of cells")
    parser.add_argument("--minutes", type=float, default=60.0, help="0 prints the table alone")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each task")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    for name, value in asdict(defaults).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    asked = vars(parser.parse_args(arguments))
    settings = Settings(**{name: asked[name] for name in asdict(defaults)})
    tasks: list[str] = asked["tasks"]
    log = Log(asked["out"], settings)
    cells = [
        Cell(task=task, seed=seed, method=method)
        for seed in range(asked["seeds"])
        for task in tasks
        for method in METHODS
        if method != "initial"  # the search measures it
    ]
    stop_at = time.monotonic() + 60 * asked["minutes"]
    if time.monotonic() < stop_at and any(cell not in log.outcomes for cell in cells):
        logging.disable(logging.INFO)
        for cell in run_cells(load_lm(settings.model), settings, cells, log, stop_at):
            print(f"{cell.task}, seed {cell.seed}: {METHODS[cell.method]}", flush=True)
    print(table(log, tasks))


if __name__ == "__main__":
    main()
