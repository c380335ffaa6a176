"""The runs of a folder, one of which may go on at a time, in a process of its own."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from greater_fast.runs.writer import make_folders, new_path
from greater_fast.ui.form import Form
from greater_fast.ui.story import LOG, Story, is_out_of_time, tell
from greater_fast.ui.workers import Worker, worker_among

INTERRUPTED = 130  # exit status of a run that was stopped

_FILES = ("run.json", LOG)  # what tells a run's folder from others
_SECONDS_TO_STOP = 60.0
# A run tells its progress by lines, whatever the page was started from.
_OF_TERMINALS = ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "JPY_PARENT_PID")
# As `python -m greater_fast`; but Ctrl-C is heard, though the page's own process, in the background
# of a script, may have been told to ignore it.
_PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from greater_fast.__main__ import main; sys.exit(main())"
)


class Session:
    """Begins runs in folders within `folder`, stops them and goes on with them.

    A run is a process of its own session: neither a browser that is closed ends it nor a Ctrl-C
    that was meant for the page. Whoever asks, from whatever page, is told of the same run.

    Raises:
        ValueError: the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = new_path("runs", folder)
        self.uploads = self.folder / "uploads"
        try:
            make_folders(self.uploads)
        except OSError as error:
            raise ValueError(
                f"runs {self.folder}: {error.strerror}: name another folder"
            ) from error
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._run: Path | None = None  # the one that it works on, or did at last
        self._has_failed = False
        self._asked_to_end: Worker | None = None

    @property
    def running(self) -> Path | None:
        """The folder of the run that goes on; None where none does."""
        with self._lock:
            worker = self._worker(self._every())
            return worker.run if worker else None

    def runs(self) -> list[Path]:
        """The folders of all runs, the newest first."""
        begun = []
        for folder in self.folder.iterdir():
            for file in _FILES:
                with contextlib.suppress(OSError):
                    begun.append((folder.joinpath(file).stat().st_mtime_ns, folder))
                    break
        return [folder for _, folder in sorted(begun, reverse=True)]

    def find(self, name: str | None) -> Path:
        """The folder of the run of that name.

        Raises:
            ValueError: there is none.
        """
        for run in self.runs():
            if run.name == name:
                return run
        raise ValueError("no such run: choose one of the list")

    def story(self, run: Path) -> Story:
        """What is known of a run so far."""
        with self._lock:
            goes_on = self._worker_on(run) is not None
        return tell(run, goes_on, has_failed=self._has_failed and self._run == run)

    def start(self, form: Form) -> Path:
        """Begin a run; its folder.

        Raises:
            ValueError: a run goes on, the form cannot work, or no process can be started.
        """
        for file in (form.data, form.test):
            if file is not None and not Path(file).resolve().is_relative_to(self.uploads.resolve()):
                raise ValueError("the rows were not dropped on this page: drop the file again")
        with self._lock:
            self._check_free()
            form.check()
            run = self._new_folder()
            try:
                self._begin(run, form.arguments(run))
            except ValueError:
                run.joinpath(LOG).unlink(missing_ok=True)
                run.rmdir()
                raise
        return run

    def resume(self, run: Path, more: Mapping[str, float] | None = None) -> None:
        """Go on with a run, with more `steps` or `minutes` in all where these are given.

        Raises:
            ValueError: a run goes on, this one has no time left, or no process can be started.
        """
        if "minutes" not in (more or {}) and is_out_of_time(run):
            raise ValueError("minutes: those of the run are over: say how many it has in all")
        options = [f"--{name}={number:.12g}" for name, number in (more or {}).items()]
        with self._lock:
            self._check_free()
            self._begin(run, ["resume", str(run), *options])

    def stop(self, run: Path) -> None:
        """Ask a run that goes on to end, as Ctrl-C does: it writes what it has found.

        It is asked once, however often this is called: a second Ctrl-C would not let it write.

        Raises:
            ValueError: its process is another user's, or elsewhere: no signal comes there.
        """
        with self._lock:
            worker = self._worker_on(run)
            if worker is None or worker == self._asked_to_end:
                return
            if worker.process is None:
                raise ValueError(
                    f"the run {run.name} goes on in another container or on another machine: stop "
                    "it there"
                )
            try:
                os.kill(worker.process, signal.SIGINT)
            except ProcessLookupError:  # it has ended
                return
            except PermissionError as error:
                raise ValueError(
                    f"the run {run.name} is another user's, who can stop it"
                ) from error
            self._asked_to_end = worker

    def close(self, seconds: float = _SECONDS_TO_STOP) -> Path | None:
        """Stop the run that was begun here and wait for its end; its folder, None for none.

        A run that does not end in time is left to itself.
        """
        process = self._process
        if process is None or self._run is None or process.poll() is not None:
            return None
        self.stop(self._run)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        return self._run

    def farewell(self, run: Path) -> str:
        """What became of the run that `close` has stopped."""
        if self.running == run:
            return f"the run in {run} is still ending"
        if not tell(run, goes_on=False).initial:
            return "its run was stopped before it had begun"
        return f"its run was stopped; it goes on with: greater-fast resume {run}"

    def _every(self) -> list[Path]:
        """All runs, and that of this page's process, whose folder may be gone."""
        return [*self.runs(), *([self._run] if self._run else [])]

    def _worker_on(self, run: Path) -> Worker | None:
        """A process at work on a run; where there is none, the next has not been asked to end."""
        worker = self._worker([run])
        if worker is None and self._asked_to_end is not None and self._asked_to_end.run == run:
            self._asked_to_end = None
        return worker

    def _worker(self, runs: Sequence[Path]) -> Worker | None:
        """A process at work on one of these runs: the one begun here, or another's."""
        if self._process is not None and self._run is not None:
            status = self._process.poll()
            if status is None:
                if self._run in runs:
                    return Worker(self._run, self._process.pid)
            else:
                self._process = None
                self._has_failed = status not in (0, INTERRUPTED)
                if status < 0:
                    self._tell_of_signal(self._run, -status)
        return worker_among(runs)

    def _tell_of_signal(self, run: Path, number: int) -> None:
        """Write to a run's log what its process could not say itself."""
        why = ", as the system does where memory runs out" if number == signal.SIGKILL else ""
        name = signal.Signals(number).name
        line = f"greater-fast: the process was ended by {name}{why}\n"
        with contextlib.suppress(OSError), run.joinpath(LOG).open("a") as log:
            log.write(line)

    def _check_free(self) -> None:
        if (worker := self._worker(self._every())) is not None:
            name = worker.run.name
            raise ValueError(f"the run {name} goes on: stop it first, or wait for its end")

    def _new_folder(self) -> Path:
        """A new folder, named by the time."""
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        for number in itertools.count(1):
            run = self.folder / (stamp if number == 1 else f"{stamp}-{number}")
            with contextlib.suppress(FileExistsError):
                run.mkdir()
                break
        return run

    def _begin(self, run: Path, arguments: Sequence[str]) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in _OF_TERMINALS}
        # -P: what lies in the working directory is none of the program's modules
        command = [sys.executable, "-P", "-c", _PROGRAM, *arguments]
        try:
            with run.joinpath(LOG).open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise ValueError(f"no run can be started: {error.strerror}") from error
        self._run, self._has_failed, self._asked_to_end = run, False, None
