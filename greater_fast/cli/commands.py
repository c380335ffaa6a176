"""The commands: `greater-fast optimize | plan | evaluate | show`, and those in files beside."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

from greater_fast.api import evaluate, optimize, plan
from greater_fast.cli import display
from greater_fast.cli.endpoint import add_endpoint_options, check_endpoint_options, evaluate_served
from greater_fast.cli.evaluation_input import evaluation_input, prompt_of
from greater_fast.cli.export import add_export_command
from greater_fast.cli.log_option import add_log_option, trackers
from greater_fast.cli.options import (
    DATA_HELP,
    SearchRows,
    add_debug_option,
    add_model_option,
    add_search_options,
    add_shared_options,
    one_or_all,
    search_rows,
    settings,
)
from greater_fast.cli.printing import print_json, print_parts, print_result
from greater_fast.cli.released import add_released_command
from greater_fast.cli.report import add_report_command
from greater_fast.cli.resume import add_resume_command
from greater_fast.cli.ui import add_ui_command
from greater_fast.config import Config
from greater_fast.config_checks import guess
from greater_fast.model.byte_sizes import parse_bytes
from greater_fast.ranks import join
from greater_fast.runs.directory import read_run
from greater_fast.runs.input import checking_input
from greater_fast.runs.on_ranks import on_all_ranks
from greater_fast.runs.result import Report
from greater_fast.runs.visible import brief, described, visible
from greater_fast.runs.writer import new_path
from greater_fast.version import __version__
from greater_fast.wording import quoted


class _Parser(argparse.ArgumentParser):
    """One whose errors are shown as all others are.

    `rest` names where arguments are put that it does not know; without it they are errors.
    """

    def __init__(self, *, rest: str | None = None, **given: Any) -> None:
        super().__init__(**given)
        self._rest = rest

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """What the arguments are; of one that is not known the nearest known name is told."""
        found, unknown = super().parse_known_args(args, namespace)
        if self._rest is not None:
            setattr(found, self._rest, unknown)
        elif unknown:
            near = guess(unknown[0].partition("=")[0], [*self._option_string_actions])
            self.error(f"unrecognized arguments: {' '.join(unknown)}{near}")
        return found, []

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the arguments, and exit with 2."""
        super().error(brief(visible(message), 2000))


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; what it parses has the command's function under `command`."""
    parser = _Parser(
        prog="greater-fast",
        description="Optimise a prompt by gradients over the model's reasoning.",
    )
    parser.add_argument("--version", action="version", version=f"greater-fast {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("optimize", help="search a better prompt for a model on rows")
    command.set_defaults(command=_optimize, before="the first score")
    add_model_option(command)
    add_search_options(command, "--train")
    command.add_argument("--run-dir", help="folder for the run (default: a new one under runs/)")
    command.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run that --run-dir holds, if it holds one, with the same options; "
        "--steps may be more than before",
    )
    add_log_option(command)
    add_shared_options(command)
    add_resume_command(commands)

    command = commands.add_parser(
        "plan", help="what optimize would take: of the memory, told without loading weights; time"
    )
    command.set_defaults(command=_plan, before="the plan was made")
    add_model_option(command)
    command.add_argument(
        "--gpu-memory",
        metavar="SIZE",
        help="plan for a GPU with so much memory (24GiB, 24GB, 8e9), be there one or not; without "
        "it, for all memory of the device that optimize would take",
    )
    command.add_argument(
        "--measure",
        type=int,
        default=0,
        metavar="N",
        help="load the model and take N steps (3 will do), to tell how long the run would take, "
        "and which settings would make that less",
    )
    add_search_options(command, "--data", "--train")
    add_shared_options(command)

    command = commands.add_parser("evaluate", help="accuracy of a prompt on rows")
    command.set_defaults(command=_evaluate, before="the evaluation was done")
    add_model_option(command, "that of --run")
    command.add_argument("--data", required=True, help=f"rows: {DATA_HELP}")
    command.add_argument("--prompt", help="prompt to measure; the best of --run if left out")
    command.add_argument("--against", help="second prompt, compared on the same rows")
    command.add_argument(
        "--run",
        "--run-dir",  # torchrun takes --run for one of its own
        dest="run",
        metavar="RUN",
        help="run directory: take model, settings, extractor and prompts from it, compare the best "
        "with the initial prompt, and leave out rows that the run has seen",
    )
    command.add_argument("--records", metavar="FILE", help="write each row's outcome as JSONL")
    add_endpoint_options(command)
    add_shared_options(command)

    command = commands.add_parser("show", help="a run directory as tables")
    command.set_defaults(command=_show, before="all was shown")
    command.add_argument("run", metavar="RUN", help="run directory")
    command.add_argument("--json", action="store_true", help="print JSON instead")
    add_debug_option(command)

    add_export_command(commands)
    add_report_command(commands)
    add_ui_command(commands)
    add_released_command(commands)
    return parser


@on_all_ranks
def _optimize(options: argparse.Namespace) -> int:
    with checking_input():
        config, (train, dev, test) = join().by_first(lambda: _search_input(options))
        on_step = trackers(options)
    result = optimize(
        one_or_all(options.model),
        train,
        dev,
        prompt=options.prompt,
        test=test,
        config=config,
        run_dir=options.run_dir,
        resume=options.resume,
        on_step=on_step,
    )
    return print_result(result, as_json=options.json)


def _search_input(options: argparse.Namespace) -> tuple[Config, SearchRows]:
    """The settings and rows of a search."""
    config = settings(options, {})
    return config, search_rows(options, config)


def _plan(options: argparse.Namespace) -> int:
    with checking_input():
        gpu_memory = _gpu_memory(options.gpu_memory)
        config, (train, dev, test) = _search_input(options)
    memory = plan(
        one_or_all(options.model),
        train,
        dev,
        prompt=options.prompt,
        test=test,
        config=config,
        gpu_memory=gpu_memory,
        measure=options.measure,
    )
    if options.json:
        print_json(memory.to_dict())
    else:
        Console(highlight=False).print(display.plan_table(memory.to_dict()))
        notes = [note for rows in (train, dev, test) for note in getattr(rows, "notes", ())]
        how_long = memory.describe_time(config.minutes)
        print_parts(*notes, memory.verdict, *memory.advice, memory.work.describe(), how_long)
    return 0 if memory.fits else 1


def _gpu_memory(size: str | None) -> int | None:
    if size is None:
        return None
    try:
        num_bytes = parse_bytes(size)
    except ValueError as error:
        raise ValueError(f"--gpu-memory: {error}") from error
    if num_bytes < 1 << 20:
        raise ValueError(f"--gpu-memory: got {quoted(size)}, {num_bytes} bytes: write {size}GiB")
    return num_bytes


@on_all_ranks
def _evaluate(options: argparse.Namespace) -> int:
    with checking_input():
        check_endpoint_options(options)
    report = _evaluate_here(options) if options.endpoint is None else evaluate_served(options)
    if options.json:
        print_json(report.to_dict())
    else:
        print_parts(*report.notes, *display.report_lines(report.to_dict()))
    return 0


def _evaluate_here(options: argparse.Namespace) -> Report:
    with checking_input():
        asked = join().by_first(lambda: evaluation_input(options))
    with asked.explained():
        return evaluate(**asked.given, records=options.records)


def _show(options: argparse.Namespace) -> int:
    with checking_input():
        run = read_run(options.run)
    damage = run["damage"]
    if options.json:
        print_json({key: run[key] for key in ("run", "steps", "result")})
    else:
        if run["result"] is not None:  # it may have been moved since
            run["result"] = {**run["result"], "run_dir": str(new_path("run", options.run))}
        parts = {"run.json": _origin, "steps.jsonl": _steps, "result.json": _outcome}
        for name, part in parts.items():
            try:
                print_parts(*part(run))
            except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                damage = [*damage, f"{options.run}/{name} cannot be shown: {described(error)}"]
    for line in damage:
        print(f"greater-fast: {visible(line)}", file=sys.stderr)
    return 1 if damage else 0


def _origin(run: dict[str, Any]) -> list[str | Table]:
    named = run["run"]["model"]
    models = f"models {' and '.join(named)}" if isinstance(named, list) else f"model {named}"
    given = run["run"]["dtype"]
    dtypes = " and ".join(dict.fromkeys(given if isinstance(given, list) else [given]))
    where = f"on {run['run']['device']} in {dtypes}"
    return [f"{models} {where}, started {run['run']['started']}"]


def _steps(run: dict[str, Any]) -> list[str | Table]:
    return [display.steps_table(run["steps"])]


def _outcome(run: dict[str, Any]) -> list[str | Table]:
    if run["result"] is None:
        failed = f"failed: {run['failure']}; " if run["failure"] else "unfinished; "
        notes = run["run"].get("notes", ())
        return [*notes, f"{'' if run['damage'] else failed}last prompt: {prompt_of(run)}"]
    result = run["result"]
    return [*result["notes"], display.finalists_table(result), *display.outcome(result)]
