"""Which process is at work on a run, whoever began it: the one that holds the run's lock."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from greater_fast.runs.saved.lock import LOCK_FILE


class Worker(NamedTuple):
    """A run, and the number of the process at work on it."""

    run: Path
    process: int


def worker_among(runs: Iterable[Path]) -> Worker | None:
    """The first of these runs that a process is at work on; None where there is none."""
    for run in runs:
        if (process := _holder(run / LOCK_FILE)) is not None:
            return Worker(run, process)
    return None


def _holder(lock: Path) -> int | None:
    """The process that holds a lock; a file that one left behind is held by none."""
    try:
        process = int(lock.read_bytes())
        os.kill(process, 0)  # most are dead, and their locks need no trying
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return process
    except (OSError, OverflowError, ValueError):
        return None
    return None
