"""The command line from its start to its exit status, whatever happens in between."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from greater_fast.ranks import is_first

INTERRUPTED, PIPE_CLOSED = 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status.

    0 done, 1 failed (a plan: it does not fit), 2 bad input, 130 interrupted, 141 nobody reads on;
    a run that SIGTERM ends raises SystemExit with 143. Of several ranks, the first alone prints.
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
    for stream in (sys.stdout, sys.stderr):  # what a terminal has no letters for is no error
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with _ending_at_once():
        from greater_fast.cli.commands import parser
        from greater_fast.cli.libraries import heard_in_words
        from greater_fast.runs.input import InputError
    options = parser().parse_args(arguments)
    try:
        with heard_in_words():
            status: int = options.command(options)
    except InputError as error:
        return _failed(error, 2, options.debug)
    except KeyboardInterrupt:
        print(f"greater-fast: interrupted before {options.before}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _close_output()
        return PIPE_CLOSED
    except Exception as error:  # whatever it is, its kind and message say more than its frames
        _close_output()
        return _failed(error, 1, options.debug)
    return status


def _failed(error: Exception, status: int, debug: bool) -> int:
    """Tell an error, and what was noted on its way; its frames for those who ask."""
    from greater_fast.runs.visible import described, visible, with_traceback

    if debug:
        print(with_traceback(error), file=sys.stderr)
    lines = [described(error), *(visible(note) for note in getattr(error, "__notes__", ()))]
    if status == 1 and len(lines) == 1 and not debug:
        lines.append("where in the program: --debug")
    print(f"greater-fast: {'; '.join(lines)}", file=sys.stderr)
    return status


@contextlib.contextmanager
def _ending_at_once() -> Iterator[None]:
    """Ctrl-C ends the process without a traceback: imports take seconds, and lose nothing."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def end(number: int, frame: Any) -> None:
        os.write(2, b"greater-fast: interrupted at the start\n")
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _close_output() -> None:
    """Let nothing be written any more to a standard output that may be full, or closed."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
