"""Does the search gain anything? Test accuracy of a search beside its controls, on one budget.

    python -m benchmarks.evidence.effect --minutes 60   # goes on where it stopped
    python -m benchmarks.evidence.effect --minutes 0    # prints the tables alone
    python -m benchmarks.evidence.effect --metric numeric  # tests again what was found

Every seed draws its own training, development and test rows of each task. A search ends when its
budget is spent, in generated tokens or in seconds of an idle machine, the same one for all arms, or
before, where it has nothing new to try: docs/evidence/effect.md says what counts. Cells are written
down as they are done, and never done again. With a `--metric` beside equality nothing is searched:
prompts of the cells that are done are tested again.
"""

import argparse
import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from itertools import groupby
from pathlib import Path

from benchmarks.evidence.chains import model_name
from benchmarks.evidence.effect_arms import Place, Workbench, search
from benchmarks.evidence.effect_cells import (
    ARMS,
    EXACT,
    Budget,
    Cell,
    Log,
    Outcome,
    Settings,
    arms_first_to_last,
    kinds_of_device,
    other_metrics,
)
from benchmarks.evidence.effect_table import budgets_of, estimates, gains, report
from benchmarks.evidence.plots import forest_plot
from benchmarks.gpu.main import commit
from benchmarks.harness.machine import kind_of_device, machine
from greater_fast.examples.metrics import METRICS
from greater_fast.examples.tasks import TASKS
from greater_fast.model.lm import LM, load_lm

FOLDER = Path("benchmarks/results/effect")
DEFAULT_TOKENS = 150_000  # a pass over the default prompt takes our search about so many
X_LABELS = {
    "effect": "points of test accuracy, 95% over seeds",
    "gain": "points of test accuracy over the initial prompt, 95% over seeds",
}


def run_cells(
    lm: LM,
    settings: Settings,
    cells: Sequence[Cell],
    log: Log,
    stop_at: float,
    found: Mapping[Cell, Outcome] | None = None,
) -> Iterator[Cell]:
    """Run what is not done yet, each cell as it ends; none that would likely end too late.

    `cells` of a task and a seed stand together. `stop_at` is in seconds of `time.monotonic`. Of
    cells that are `found` the prompts are tested by the settings' metric, without a search.
    """
    bench, longest = Workbench(lm, settings), 0.0
    todo = [cell for cell in cells if cell not in log.outcomes]
    for (task, seed), group in groupby(todo, lambda cell: (cell.task, cell.seed)):
        own = list(group)
        if time.monotonic() + longest > stop_at:
            return
        place = bench.place(task, seed, arms_first_to_last(cell.arm for cell in own))
        if any(cell.budget.kind == "seconds" for cell in own):
            bench.warm_up(place, own[0].arm)
        for cell in own:
            if time.monotonic() + longest > stop_at:
                return
            begun = time.monotonic()
            if found is None:
                log.add(cell, run_cell(place, settings, cell))
            else:
                log.add(cell, tested_again(place, found[cell]))
            longest = max(longest, time.monotonic() - begun)
            yield cell


def run_cell(place: Place, settings: Settings, cell: Cell) -> Outcome:
    """Search, choose on the development rows, test."""
    if cell.arm == "initial":
        return _tested(place, place.initial)
    config = settings.config(cell.arm, cell.seed)
    train = place.layouts[cell.arm]["train"]
    found = search(place.engine, train, config, cell.arm, cell.budget)
    best, finals = place.best(found.state, config)
    return replace(
        _tested(place, best),
        search=found.cost,
        finals=finals,
        num_steps=found.num_steps,
        num_candidates=found.num_candidates,
        stopped=found.stopped,
    )


def tested_again(place: Place, found: Outcome) -> Outcome:
    """What a cell came to, its prompt tested by the metric of the place's test rows."""
    tested = _tested(place, place.ids_of(found.prompt))
    return replace(found, rows=tested.rows, commit=tested.commit)


def _tested(place: Place, prompt_ids: tuple[int, ...]) -> Outcome:
    tested, _ = place.evaluated("test", prompt_ids)
    rows = "".join("1" if row.correct else "0" for row in tested.rows)
    return Outcome(prompt=tested.prompt, rows=rows, commit=commit(), machine=machine())


def cells_of(
    tasks: Sequence[str], seeds: Sequence[int], arms: Sequence[str], budget: Budget
) -> list[Cell]:
    """All cells, one seed of each task after the other; the initial prompt has no budget."""
    return [
        Cell(task=task, seed=seed, arm=arm, budget=Budget() if arm == "initial" else budget)
        for seed in seeds
        for task in tasks
        for arm in arms_first_to_last(arms)
    ]


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    asked = _parser().parse_args(arguments)
    if asked.budget == "seconds" and asked.amount is None:
        raise SystemExit("--budget seconds needs --amount: seconds of a search on this machine")
    budget = Budget(asked.budget, DEFAULT_TOKENS if asked.amount is None else asked.amount)
    given = {f.name: getattr(asked, f.name) for f in fields(Settings) if f.name != "device"}
    given["model"] = model_name(asked.model)  # a folder's place is nobody's business
    settings = Settings(**given, device=kind_of_device())
    cells = cells_of(asked.tasks, asked.seeds, asked.arms, budget)
    stop_at = time.monotonic() + 60 * asked.minutes
    log = Log(asked.out, settings)
    found = None
    if settings.metric != EXACT:
        found = Log(asked.out, replace(settings, metric=EXACT)).outcomes
        fit = [task for task in asked.tasks if settings.is_measured(task)]
        if unfit := [task for task in asked.tasks if task not in fit]:
            print(f"--metric {settings.metric} is not for the answers of {', '.join(unfit)}")
        cells = [cell for cell in cells if cell in found and cell.task in fit]
    if asked.minutes > 0 and any(cell not in log.outcomes for cell in cells):
        logging.disable(logging.INFO)
        warnings.filterwarnings("ignore", "all .* training rows are", RuntimeWarning)
        for cell in run_cells(load_lm(asked.model), settings, cells, log, stop_at, found):
            accuracy = log.outcomes[cell].accuracy
            print(f"{cell.task}, seed {cell.seed}, {ARMS[cell.arm]}: {accuracy:.1%}", flush=True)
    for device in kinds_of_device(asked.out) or [settings.device]:
        own = Log(asked.out, replace(settings, device=device, metric=EXACT))
        print("\n".join([*own.damage, *tables(own, asked.tasks)]), end="\n\n")
        if asked.plots is not None:
            draw(own, asked.tasks, title_of(own), asked.plots)


def title_of(log: Log) -> str:
    """What the tables of a kind of device are headed by."""
    return f"{log.settings.model}, {log.settings.device}"


def tables(log: Log, tasks: Sequence[str]) -> Iterator[str]:
    """The tables of a log, and those of its prompts tested by other metrics, without the costs."""
    yield report(log.outcomes, tasks, title_of(log))
    for metric in other_metrics(log.folder):
        again = Log(log.folder, replace(log.settings, metric=metric)).outcomes
        if tested := [task for task in tasks if task in {cell.task for cell in again}]:
            title = f"{title_of(log)}, tested by `{metric}`"
            yield "\n" + report(again, tested, title, with_costs=False)


def draw(log: Log, tasks: Sequence[str], title: str, folder: Path) -> None:
    """Figures for each budget, of what was gained and of all differences, where there are any."""
    for budget in budgets_of(log.outcomes):
        for name, make in (("effect", estimates), ("gain", gains)):
            if found := make(log.outcomes, tasks, budget):
                path = folder / f"{name}-{log.about}-{budget.kind}-{budget.amount:.0f}.svg"
                forest_plot(path, found, title=f"{title}, {budget}", x_label=X_LABELS[name])
                print(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.effect")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of cells")
    parser.add_argument("--minutes", type=float, default=60.0, help="0 prints the tables alone")
    parser.add_argument("--plots", type=Path, help="folder for figures of the differences")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(8)))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--budget", default="tokens", choices=["tokens", "seconds"])
    parser.add_argument(
        "--amount", type=float, help=f"of the budget, a search; {DEFAULT_TOKENS:,} tokens if unset"
    )
    for name, value in asdict(Settings()).items():
        if name != "device":
            choices = list(METRICS) if name == "metric" else None
            option = f"--{name.replace('_', '-')}"
            parser.add_argument(option, type=type(value), default=value, choices=choices)
    return parser


if __name__ == "__main__":
    main()
