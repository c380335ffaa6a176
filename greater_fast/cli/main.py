"""The command line: `greater-fast optimize | plan | evaluate | show`."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from greater_fast.api import evaluate, optimize, plan
from greater_fast.cli import display
from greater_fast.cli.options import (
    DATA_HELP,
    MODEL_HELP,
    add_search_options,
    add_shared_options,
    generated_test_rows,
    load_rows,
    other_rows,
    settings,
    training_rows,
)
from greater_fast.examples.data import Examples
from greater_fast.model.byte_sizes import parse_bytes
from greater_fast.runs.directory import read_run
from greater_fast.version import __version__

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status.

    0 done, 1 failed (a plan: it does not fit), 2 bad input, 130 interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _plain_warnings(warnings.showwarning)
            _quiet_transformers()
            status: int = options.command(options)
    except ValueError as error:
        print(f"greater-fast: {error}", file=sys.stderr)
        return 2
    except (FloatingPointError, MemoryError) as error:
        print(f"greater-fast: {error}; the steps so far are in the run directory", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"greater-fast: interrupted before {options.before}", file=sys.stderr)
        return INTERRUPTED
    return status


def _plain_warnings(show: Callable[..., None]) -> Callable[..., None]:
    """Show the package's own warnings as one line without source code, all others as before."""
    package = Path(__file__).parents[1]

    def shown(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
        if Path(filename).is_relative_to(package):
            print(f"greater-fast: warning: {' '.join(str(message).split())}", file=sys.stderr)
        else:
            show(message, category, filename, *rest)

    return shown


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="greater-fast",
        description="Optimise a prompt by gradients over the model's reasoning.",
    )
    parser.add_argument("--version", action="version", version=f"greater-fast {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("optimize", help="search a better prompt for a model on rows")
    command.set_defaults(command=_optimize, before="the first score")
    command.add_argument("--model", required=True, help=MODEL_HELP)
    add_search_options(command, "--train")
    command.add_argument("--run-dir", help="folder for the run (default: a new one under runs/)")
    add_shared_options(command)

    command = commands.add_parser(
        "plan", help="what optimize would take of the memory, told without loading weights"
    )
    command.set_defaults(command=_plan, before="the plan was made")
    command.add_argument("--model", required=True, help=MODEL_HELP)
    command.add_argument(
        "--gpu-memory",
        metavar="SIZE",
        help="plan for a GPU with so much memory (24GiB, 24GB, 8e9), be there one or not; without "
        "it, for all memory of the device that optimize would take",
    )
    add_search_options(command, "--data", "--train")
    add_shared_options(command)

    command = commands.add_parser("evaluate", help="accuracy of a prompt on rows")
    command.set_defaults(command=_evaluate, before="the evaluation was done")
    command.add_argument("--model", help=f"{MODEL_HELP}; that of --run if left out")
    command.add_argument("--data", required=True, help=f"rows: {DATA_HELP}")
    command.add_argument("--prompt", help="prompt to measure; the best of --run if left out")
    command.add_argument("--against", help="second prompt, compared on the same rows")
    command.add_argument(
        "--run",
        metavar="RUN",
        help="run directory: take model, settings, extractor and prompts from it, compare the best "
        "with the initial prompt, and leave out rows that the run has seen",
    )
    command.add_argument("--records", metavar="FILE", help="write each row's outcome as JSONL")
    add_shared_options(command)

    command = commands.add_parser("show", help="a run directory as tables")
    command.set_defaults(command=_show, before="all was shown")
    command.add_argument("run", metavar="RUN", help="run directory")
    command.add_argument("--json", action="store_true", help="print JSON instead")
    return parser


def _optimize(options: argparse.Namespace) -> int:
    config = settings(options, {})
    train = training_rows(options, config)
    dev, test = other_rows(options, config)
    with display.progress(config.steps) as on_step:
        result = optimize(
            options.model,
            train,
            dev,
            prompt=options.prompt,
            test=generated_test_rows(options, config) or test,
            config=config,
            run_dir=options.run_dir,
            on_step=on_step,
        )
    values = result.to_dict()
    if options.json:
        print(json.dumps(values, ensure_ascii=False))
    else:
        print("\n".join([*result.notes, *display.outcome(values)]))
    return INTERRUPTED if result.stopped == "interrupted" else 0


def _plan(options: argparse.Namespace) -> int:
    try:
        gpu_memory = parse_bytes(options.gpu_memory) if options.gpu_memory else None
    except ValueError as error:
        raise ValueError(f"--gpu-memory: {error}") from error
    config = settings(options, {})
    train = training_rows(options, config)
    dev, test = other_rows(options, config)
    memory = plan(
        options.model,
        train,
        dev,
        prompt=options.prompt,
        test=generated_test_rows(options, config) or test,
        config=config,
        gpu_memory=gpu_memory,
    )
    if options.json:
        print(json.dumps(memory.to_dict(), ensure_ascii=False))
    else:
        console = Console(markup=False, emoji=False, highlight=False)
        console.print(display.plan_table(memory.to_dict()))
        notes = [note for rows in (train, dev, test) for note in getattr(rows, "notes", ())]
        console.print("\n".join([*notes, memory.verdict, *memory.advice]), soft_wrap=True)
    return 0 if memory.fits else 1


def _evaluate(options: argparse.Namespace) -> int:
    run = read_run(options.run) if options.run else None
    base: dict[str, Any] = {}
    if run is not None:
        base = {**run["run"]["config"], "extractor": run["run"]["extractor"]}
        if run["result"] is not None and options.prompt is None and options.against is None:
            initial = run["result"]["baseline"]["prompt"]
            options.against = initial if initial != run["result"]["prompt"] else None
    model = options.model or (run["run"]["model"] if run else "")
    prompt = options.prompt or (_prompt_of(run) if run else "")
    config = settings(options, base)
    rows = load_rows(options.data, options.columns, config.template) or Examples([])
    if run is not None:
        if config.template != run["run"]["config"].get("template"):
            warning = "the template is not the run's: rows that the run has seen cannot be told"
            print(f"greater-fast: warning: {warning}", file=sys.stderr)
        rows = _unseen(rows, run["examples"])
    missing = [name for name, value in (("--model", model), ("--prompt", prompt)) if not value]
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing: give it, or --run RUN to take it from")
    with display.progress():
        report = evaluate(
            model,
            rows,
            prompt=prompt,
            against=options.against,
            config=config,
            records=options.records,
        )
    values = report.to_dict()
    if options.json:
        print(json.dumps(values, ensure_ascii=False))
        return 0
    print("\n".join([*report.notes, f"extractor: {report.extractor}"]))
    for part in (values, values["against"]):
        if part is not None:
            print(f"{display.percent(part)} ({display.interval(part)}) of {part['num_rows']} rows")
            print(f"  {part['prompt']}")
    if values["comparison"]:
        print(
            "only the first right {num_only_first}, only the second {num_only_second}, "
            "McNemar p = {p_value:.3f}".format(**values["comparison"])
        )
    return 0


def _prompt_of(run: dict[str, Any]) -> str:
    """The best prompt of a run, or the last one of a run that was cut off."""
    if run["result"] is not None:
        return str(run["result"]["prompt"])
    return str(run["steps"][-1]["prompt"] if run["steps"] else run["run"]["prompt"])


def _unseen(rows: Examples, seen: list[dict[str, Any]]) -> Examples:
    """Rows that a run did not search or choose on; says how many were left out."""
    questions = {" ".join(e["question"].split()) for e in seen if e["split"] != "test"}
    kept = [row for row in rows if " ".join(row.question.split()) not in questions]
    if len(kept) < len(rows):
        left_out = len(rows) - len(kept)
        print(f"{left_out} of {len(rows)} rows left out: the run has seen them", file=sys.stderr)
    if not kept:
        raise ValueError("the run has seen all of these rows: give it test rows")
    return Examples(kept, rows.notes)


def _show(options: argparse.Namespace) -> int:
    run = read_run(options.run)
    if options.json:
        print(json.dumps({key: run[key] for key in ("run", "steps", "result")}, ensure_ascii=False))
        return 0
    console = Console(markup=False, emoji=False, highlight=False)
    model, started = run["run"]["model"], run["run"]["started"]
    console.print(f"model {model}, started {started}", soft_wrap=True)
    console.print(display.steps_table(run["steps"]))
    if run["result"] is None:
        console.print(f"unfinished; last prompt: {_prompt_of(run)}", soft_wrap=True)
        return 0
    console.print(display.finalists_table(run["result"]))
    console.print("\n".join(display.outcome(run["result"])), soft_wrap=True)
    return 0


def _quiet_transformers() -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
