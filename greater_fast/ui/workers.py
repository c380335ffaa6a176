"""Which process is at work on a run, whoever began it: the one that holds the run's lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from greater_fast.runs.saved.lock import LOCK_FILE, place, read_holder


class Worker(NamedTuple):
    """A run, and the process at work on it: None where that has no number here.

    As in another container, or on another machine that has the same folder.
    """

    run: Path
    process: int | None


def worker_among(runs: Iterable[Path]) -> Worker | None:
    """The first of these runs that a process is at work on; None where there is none."""
    return next(filter(None, map(_worker_of, runs)), None)


def _worker_of(run: Path) -> Worker | None:
    """Who holds the lock of a run; a file that one left behind is held by none."""
    lock, process = run / LOCK_FILE, None
    try:
        number, where = read_holder(lock)
        if where == place():
            process = number
            with contextlib.suppress(PermissionError):  # another user's
                os.kill(process, 0)  # most are dead, and their locks need no trying
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return Worker(run, process)
    except (OSError, OverflowError, ValueError):
        return None
    return None
