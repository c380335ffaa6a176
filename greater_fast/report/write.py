"""Runs as one page to look at: a file that needs nothing else, no network and no script."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from greater_fast.report.page import Limits, ReportPage
from greater_fast.report.run_view import read_run_view
from greater_fast.runs.input import checking_input
from greater_fast.runs.writer import new_path
from greater_fast.wording import shortened

_MOST_BYTES = 2_000_000
_MOST_RUNS = 12  # with 100 steps each, their figures alone take half of that
_BEGINNING, _MADE_BY = "<!doctype html>", '<meta name="generator" content="greater_fast '
_HEAD = 2000  # characters that have both


def write_report(runs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> None:
    """Write a page about runs, side by side where there are several: 2 MB of HTML at most.

    What a run lacks, or what is damaged in it, is left out and told. The same runs give the same
    bytes. Another report in the file's place is replaced.

    Args:
        runs: run directories, finished or not.
        out: the file to write.

    Raises:
        ValueError: there is no run; `out` holds something else, or cannot be written; jinja2 or
            matplotlib is missing.
        OSError: the file could not be written after all.
    """
    with checking_input():
        _check_packages()
        path = _own_path(out)
        paths = [new_path("run", run) for run in _checked(runs)]
        views = [read_run_view(run, number) for number, run in enumerate(paths)]
    report, limits = ReportPage(views), Limits()
    page = report.render(limits).encode("utf-8")
    while len(page) > _MOST_BYTES and not limits.is_least:
        limits = limits.halved()
        page = report.render(limits).encode("utf-8")
    unfinished = path.with_name(f".{uuid.uuid4().hex}")  # of this call alone
    try:
        unfinished.write_bytes(page)
        unfinished.replace(path)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _check_packages() -> None:
    names = ("jinja2", "matplotlib")
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise ValueError(
            f"a report needs {' and '.join(missing)}: pip install 'greater-fast[report]'"
        )


def _checked(runs: Sequence[str | os.PathLike[str]]) -> Sequence[str | os.PathLike[str]]:
    if isinstance(runs, str | os.PathLike):
        return [runs]
    if not 0 < len(runs) <= _MOST_RUNS:
        raise ValueError(f"runs: got {len(runs)}, expected 1 to {_MOST_RUNS} run directories")
    return runs


def _own_path(out: str | os.PathLike[str]) -> Path:
    """The file to write: a new one, or a report."""
    path = new_path("out", out)
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            head = file.read(_HEAD)
        is_report = head.startswith(_BEGINNING) and _MADE_BY in head
    except FileNotFoundError:
        is_report = path.parent.is_dir()
        if not is_report:
            raise ValueError(f"out: there is no folder {shortened(path.parent, 200)}") from None
    except OSError as error:
        raise ValueError(f"out: {shortened(path, 200)}: {error.strerror}") from error
    if not is_report:
        raise ValueError(
            f"out: {shortened(path, 200)} holds something else than a report: name another file, "
            "or remove it"
        )
    return path
