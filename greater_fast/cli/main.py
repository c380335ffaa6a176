"""The command line from its start to its exit status, whatever happens in between."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence

from greater_fast.ranks import is_first
from greater_fast.runs.interrupts import Terminated, end_at_once, signals_heard, signals_taken

INTERRUPTED, PIPE_CLOSED = 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status.

    0 done, 1 failed (a plan: it does not fit), 2 bad input, 130 interrupted, 141 nobody reads on;
    143 ended by SIGTERM, 129 by SIGHUP. Of several ranks, the first alone prints.
    """
    if is_first():
        return _main(arguments)
    with (
        open(os.devnull, "w") as nowhere,  # noqa: PTH123 (no path of a file)
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):  # what a terminal has no letters for is no error
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with signals_taken(end_at_once):
            from greater_fast.cli.commands import parser

            options = parser().parse_args(arguments)
        return _done(options)
    except KeyboardInterrupt:  # while another one was told, or as one block ended
        _tell("interrupted")
        return INTERRUPTED


def _done(options: argparse.Namespace) -> int:
    """Do what was asked for; the exit status."""
    from greater_fast.cli.libraries import heard_in_words
    from greater_fast.runs.input import InputError

    before: str | None = options.before
    try:
        with signals_heard(), heard_in_words():
            status: int = options.command(options)
            before = None
    except InputError as error:
        return _failed(error, 2, options.debug)
    except KeyboardInterrupt as error:
        return _ended("interrupted", error, INTERRUPTED, before)
    except Terminated as error:
        return _ended(f"ended by {error.name}", error, int(error.code or 0), before)
    except BrokenPipeError:
        _close_output()
        return PIPE_CLOSED
    except Exception as error:  # whatever it is, its kind and message say more than its frames
        _close_output()
        return _failed(error, 1, options.debug)
    return status


def _ended(how: str, error: BaseException, status: int, before: str | None) -> int:
    """Tell that a signal ended the command: what it leaves, or before what it came.

    That is nothing where the command was done, and the signal's own way was just given back.
    """
    from greater_fast.runs.visible import visible

    notes = [visible(note) for note in getattr(error, "__notes__", ())]
    came = f"{how} before {before}" if before else how
    _tell("; ".join([how, *notes]) if notes else came)
    return status


def _failed(error: Exception, status: int, debug: bool) -> int:
    """Tell an error, and what was noted on its way; its frames for those who ask."""
    from greater_fast.runs.visible import described, visible, with_traceback

    if debug:
        _tell(with_traceback(error), "")
    lines = [described(error), *(visible(note) for note in getattr(error, "__notes__", ()))]
    if status == 1 and len(lines) == 1 and not debug:
        lines.append("where in the program: --debug")
    _tell("; ".join(lines))
    return status


def _tell(text: str, start: str = "greater-fast: ") -> None:
    """A text on standard error; where nobody can be told, the command ends as it would."""
    with contextlib.suppress(OSError, ValueError):
        print(f"{start}{text}", file=sys.stderr, flush=True)


def _open_closed_streams() -> None:
    """Where a standard stream was closed at the start, let it lead nowhere.

    Else the next file that is opened takes its number: what libraries, and threads that end, write
    to standard error then goes into a file of the run, and `print` to standard output.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(nowhere, "w" if number else "r"))


def _close_output() -> None:
    """Let nothing be written any more to a standard output that may be full, or closed."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
