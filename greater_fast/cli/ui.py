"""`greater-fast ui`: a page to work with, in a browser."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from greater_fast.cli.options import add_debug_option
from greater_fast.runs.input import checking_input

_HOST, _PORT = "127.0.0.1", 7860


def add_ui_command(commands: Any) -> None:
    """Add the command's parser to those of the command line."""
    command = commands.add_parser("ui", help="a page in the browser: rows, runs, reports")
    command.set_defaults(command=_ui, before="the page was closed")
    command.add_argument("--runs", default="runs", help="folder of the runs (%(default)s)")
    command.add_argument(
        "--host",
        default=_HOST,
        help="address to be reached at (%(default)s, by this machine alone); 0.0.0.0 opens the "
        "page to whoever reaches this machine",
    )
    command.add_argument("--port", type=int, default=_PORT, help="(%(default)s; 0: any free one)")
    add_debug_option(command)


def _ui(options: argparse.Namespace) -> int:
    from greater_fast.ui.server import serve
    from greater_fast.ui.session import Session

    with checking_input():
        session = Session(options.runs)
        if not 0 <= options.port < 1 << 16:
            raise ValueError(f"--port: got {options.port}, expected 0 to 65535")
    serve(session, options.host, options.port, _say)
    return 0


def _say(line: str) -> None:
    print(f"greater-fast: {line}", file=sys.stderr, flush=True)
