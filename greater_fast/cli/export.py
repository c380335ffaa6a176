"""`greater-fast export`: a run's prompt for use elsewhere."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from greater_fast.cli.options import add_debug_option
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
        choices=("text", "chat-json", "vllm"),
        help="text: the message as the model reads it, and Python that uses it; chat-json: "
        "messages for a server with the model's chat template; vllm: a script",
    )
    command.add_argument("-o", "--output", metavar="FILE", help="a new file; printed if left out")
    command.add_argument("--model", help="where the run's model is found, or which of several")
    add_debug_option(command)


def _export(options: argparse.Namespace) -> int:
    from greater_fast.export import export_run

    with checking_input():
        text = export_run(options.run, options.to, options.model)
        if options.output is None:
            print(text, end="")
            return 0
        path = new_path("-o", options.output)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError as error:
            raise ValueError(f"-o: {path} exists already: name another file") from error
    print(f"written: {visible(path)}", file=sys.stderr)
    return 0
