"""`greater-fast export`: a run's prompt for use elsewhere."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from greater_fast.cli.evaluation_input import columns_of
from greater_fast.cli.options import add_debug_option, load_rows
from greater_fast.runs.input import checking_input
from greater_fast.runs.visible import visible
from greater_fast.runs.writer import new_path


def add_export_command(commands: Any) -> None:
    """The command's parser."""
    command = commands.add_parser("export", help="the prompt of a run for use elsewhere")
    command.set_defaults(command=_export, before="all was written")
    command.add_argument("run", metavar="RUN", help="run directory")
    command.add_argument(
        "--to",
        required=True,
        choices=("text", "chat-json", "vllm", "lm-eval"),
        help="text: the message as the model reads it, and Python that uses it; chat-json: "
        "messages for a server with the model's chat template; vllm: a script; lm-eval: a task of "
        "lm-evaluation-harness on the rows of --data",
    )
    command.add_argument("--data", metavar="FILE", help="of a task: rows, as evaluate takes them")
    command.add_argument(
        "--columns", metavar="question=NAME,answer=NAME", help="columns of --data by other names"
    )
    command.add_argument(
        *("-o", "--output"),
        metavar="FILE",
        help="a new file; if left out, it is printed, but a task is RUN/lm_eval.yaml",
    )
    command.add_argument("--model", help="where the run's model is found, or which of several")
    add_debug_option(command)


def _export(options: argparse.Namespace) -> int:
    with checking_input():
        if (options.to == "lm-eval") != (options.data is not None):
            raise ValueError(
                "--data: a task has rows, and no other format: --to lm-eval --data FILE"
            )
        if options.columns is not None and options.data is None:
            raise ValueError("--columns are those of --data, which is not given: leave it out")
        path = _export_task(options) if options.data else _export_text(options)
    if path is not None:
        print(f"written: {visible(path)}", file=sys.stderr)
    return 0


def _export_text(options: argparse.Namespace) -> Path | None:
    """The prompt in a format, printed, or written to the file that is returned."""
    from greater_fast.export import export_run

    path = None if options.output is None else _new_file(options.output)
    text = export_run(options.run, options.to, options.model)
    if path is None:
        print(text, end="")
        return None
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ValueError(f"-o: {path} cannot be written: {error.strerror}") from error
    return path


def _new_file(name: str) -> Path:
    """The path of a file that is not there, in a folder that is.

    Raises:
        ValueError: it is there, or the folder is not.
    """
    path = new_path("-o", name)
    if path.exists():
        raise ValueError(f"-o: {path} exists already: name another file")
    if not path.parent.is_dir():
        raise ValueError(f"-o: there is no folder {path.parent}: make it, or name another file")
    return path


def _export_task(options: argparse.Namespace) -> Path:
    """The file of a task on the rows of a file."""
    from greater_fast.export.lm_eval import write_task
    from greater_fast.runs.directory import read_run

    run = read_run(options.run)
    template = run["run"].get("config", {}).get("template")
    rows = load_rows(options.data, options.columns, template, columns_of(run))
    path = options.output or Path(options.run) / "lm_eval.yaml"
    written, notes = write_task(options.run, rows, path, options.model)
    for note in notes:
        print(f"note: {visible(note)}", file=sys.stderr)
    return written
