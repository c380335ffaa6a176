"""`greater-fast report`: runs as one page to look at."""

from __future__ import annotations

import argparse
from typing import Any

from greater_fast.cli.options import add_debug_option
from greater_fast.runs.visible import visible
from greater_fast.runs.writer import new_path


def add_report_command(commands: Any) -> None:
    """Add the command's parser to those of the command line."""
    command = commands.add_parser("report", help="runs as one page (HTML) to look at")
    command.set_defaults(command=report, before="the report was written")
    command.add_argument("run", metavar="RUN", nargs="+", help="run directories, side by side")
    command.add_argument(
        "-o", "--out", metavar="FILE", default="report.html", help="(default: %(default)s)"
    )
    add_debug_option(command)


def report(options: argparse.Namespace) -> int:
    """Write the page, and say where it lies."""
    from greater_fast.report import write_report  # with it come templates and plots

    write_report(options.run, options.out)
    print(visible(f"report: {new_path('out', options.out)}"), flush=True)
    return 0
