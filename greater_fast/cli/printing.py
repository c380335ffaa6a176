"""Results on standard output, for a reader or as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from greater_fast.cli import display
from greater_fast.cli.main import INTERRUPTED
from greater_fast.runs.interrupts import Terminated
from greater_fast.runs.result import Result
from greater_fast.runs.visible import visible


def print_result(result: Result, *, as_json: bool) -> int:
    """Print the outcome of a run; the exit status.

    Raises:
        OSError: it cannot be printed; a note says where the result is.
    """
    values = result.to_dict()
    try:
        if as_json:
            print_json(values)
        else:
            print_parts(*result.notes, *display.outcome(values))
    except (OSError, KeyboardInterrupt, Terminated) as error:
        note = f"the result is in {result.run_dir}"
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        raise
    return INTERRUPTED if result.stopped == "interrupted" else 0


def print_parts(*parts: str | Table) -> None:
    """Print lines and tables, with nothing in them that steers a terminal."""
    console = _Console(highlight=False)
    for part in parts:
        if isinstance(part, str):
            print(visible(part), flush=True)
        else:
            console.print(part)


class _Console(Console):
    """One whose reader may close, which ends the command as of any line that is printed."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        raise BrokenPipeError


def print_json(values: Any) -> None:
    """Print JSON on one line, in letters that the output has."""
    is_unicode = (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
    print(visible(json.dumps(values, ensure_ascii=not is_unicode)), flush=True)
