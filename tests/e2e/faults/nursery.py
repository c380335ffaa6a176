"""A process that has imported all of greater_fast and started no thread: it forks command lines.

A command line then starts in milliseconds, as often as a test wants, and ends as it would alone:
killed, by a signal, or with its status. `Nursery` is the test's end of it, this module the
process's; they exchange a line of JSON each way.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self

import pytest

from tests.e2e.faults.faulty_disk import FaultyDisk

ROOT = Path(__file__).resolve().parents[3]


class Ended(NamedTuple):
    """How a command line ended: its status as of `subprocess`, what it printed, how long it ran."""

    status: int
    out: str
    err: str
    seconds: float


class Nursery:
    """Starts command lines one after the other; to be closed as a context."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.faults.nursery"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(
        self,
        arguments: Sequence[object],
        folder: Path,
        signals: Sequence[tuple[float, int]] = (),
        once: Path | None = None,
        closed: Sequence[int] = (),
        killed_at: int | None = None,
        behind: tuple[str, int] | None = None,
    ) -> Ended:
        """Run a command line, and send it signals (seconds since the one before, number).

        The first of them counts from when the file `once` is there. What is printed is kept in
        `folder`; streams may be `closed`. A command line may be killed in the midst of a write to
        `folder`, by its number, or get a signal `behind` a function, named by module and name.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {
            "arguments": [*map(str, arguments)],
            "folder": str(folder),
            "signals": signals,
            "once": once and str(once),
            "closed": closed,
            "killed_at": killed_at,
            "behind": behind,
        }
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        out, err = ((folder / name).read_text("utf-8") for name in ("out", "err"))
        return Ended(answer["status"], out, err, answer["seconds"])


class DeadlyDisk(FaultyDisk):
    """A disk whose refused write is the last thing that its process does."""

    def refuse(self, path: Path) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def _signalled(behind: tuple[str, int] | None) -> Iterator[None]:
    """Let this process get a signal at the very moment that some function has done its work."""
    if behind is None:
        yield
        return
    name, number = behind
    plain = pkgutil.resolve_name(name)

    @functools.wraps(plain)
    def call(*arguments: Any, **options: Any) -> Any:
        done = plain(*arguments, **options)
        os.kill(os.getpid(), number)
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(name, call)
        yield


def _serve() -> None:
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401 (and what its model needs)

    import greater_fast.cli.commands  # noqa: F401 (imports what a run needs)

    torch.set_num_threads(1)
    for line in sys.stdin:
        asked = json.loads(line)
        assert len(list(Path("/proc/self/task").iterdir())) == 1  # a fork has no other thread
        begun = time.monotonic()
        process = os.fork()
        if process == 0:
            _be_a_command(asked)
        status = _wait(process, asked["signals"], asked["once"])
        print(json.dumps({"status": status, "seconds": time.monotonic() - begun}), flush=True)


def _wait(process: int, signals: Sequence[tuple[float, int]], once: str | None) -> int:
    """Send a process its signals, and wait for its end."""
    begun = None if once else time.monotonic()
    for seconds, number in signals:
        while begun is None or time.monotonic() < begun + seconds:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.001)
            if begun is None and once and Path(once).exists():
                begun = time.monotonic()
        os.kill(process, number)
        begun += seconds
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _be_a_command(asked: dict[str, Any]) -> NoReturn:
    """Run a command line as an interpreter of its own would, and end."""
    from greater_fast.cli.main import main

    folder, last = Path(asked["folder"]), asked["killed_at"]
    disk = DeadlyDisk(folder, range(0) if last is None else range(last, last + 1), 0)
    os.setpgid(0, 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    for number in asked["closed"]:  # as an interpreter finds it
        os.close(number)
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)
    status = 99
    try:
        with disk.used(), _signalled(asked["behind"]):
            status = main(asked["arguments"])
    except SystemExit as error:
        status = int(error.code or 0)
    except KeyboardInterrupt:  # before the program has taken signals
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve()
