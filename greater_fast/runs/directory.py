"""The run directory: everything a run found, written as it happens.

run.json        settings, model, prompt, extractor, rows used, versions, seed, git commit
examples.jsonl  the rows of each split
steps.jsonl     one line a finished step, flushed
rollouts.jsonl  training rows with reasoning, as ids: one line a prompt that was scored to the end
state.json      the loop's state after the last finished step, and why the search ended if it did
clock.json      seconds that it took until then
rows.jsonl      development and test rows with reasoning and answer, for each prompt tried
result.json     the outcome
earlier_result.json  that of the sitting before, until there is a new one
traceback.txt   where an error ended the run
.lock           held by the process that is at work there

Of a step its rollouts are written first, then its line, then the state, each once the one before is
on the disk: whenever a process is killed, what the state knows of is there.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from greater_fast.ctrl_c import interrupts_later
from greater_fast.runs.read import read_lines, read_object
from greater_fast.runs.saved.own_folder import OwnFolder
from greater_fast.runs.saved.saved_run import RUN_FORMAT, SavedRun
from greater_fast.runs.visible import with_traceback
from greater_fast.runs.writer import Writer
from greater_fast.version import __version__

EARLIER_RESULT = "earlier_result.json"
_FILES = (
    *("run.json", "examples.jsonl", "steps.jsonl", "state.json", "rows.jsonl", "result.json"),
    *("rollouts.jsonl", "clock.json", EARLIER_RESULT),
)


class RunDirectory:
    """Writes a run. Lines are appended and flushed, whole files replaced at once.

    The folder is this run's alone from the start: `run.json` is made only where there is none, and
    the folder is locked. With `resume`, a run that is there already is gone on with: `saved` is
    what it came to, None for a new one. As a context the folder is taken back where the run has not
    begun, and keeps the traceback of one that has. A file that cannot be written is told of once,
    and the run goes on.

    Raises:
        ValueError: the folder holds another run, or cannot be made; with `resume`, another process
            is at work on the run, or its files are damaged.
    """

    saved: SavedRun | None = None

    def __init__(self, path: str | os.PathLike[str] | None, *, resume: bool = False) -> None:
        self._writer, self._begun = Writer(), False
        fresh = path is None
        self._folder = OwnFolder(
            "runs" if path is None else path, _FILES, fresh=fresh, resume=resume
        )
        self.path = self._folder.path
        if self._folder.is_resumed:
            try:
                self.saved = SavedRun.of(self.path)
            except OSError as error:
                self._folder.release()
                raise ValueError(
                    f"run_dir {self.path}: what an earlier sitting did not finish cannot be "
                    f"removed there ({error.strerror}); let its files be written to, and resume "
                    "again: nothing that is finished is lost"
                ) from error
            except BaseException:
                self._folder.release()
                raise
            if self.saved is None:
                self._folder.begin_anew()

    @property
    def problem(self) -> str | None:
        """What could not be written, and why; None where all was."""
        return self._writer.problem

    @property
    def notes(self) -> tuple[str, ...]:
        """A line where other processes are not kept out of the folder."""
        return tuple(filter(None, [self._folder.lock_problem]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        if not self._begun and self.saved is None:
            self._folder.take_back()
        elif self._begun and isinstance(error, Exception):
            with contextlib.suppress(OSError):
                text = with_traceback(error)
                (self.path / "traceback.txt").write_text(text, "utf-8", "backslashreplace")
                error.add_note(
                    f"what the run wrote, and this error's traceback, are in {self.path}"
                )
        elif self._begun and error is not None:
            error.add_note(
                f"what the run wrote is in {self.path}: greater-fast resume goes on with it"
            )
        self._folder.release()

    def begin(self, run: Mapping[str, Any], examples: Iterable[Mapping[str, Any]]) -> None:
        """Write down what this run is; `run.json` last, with which it has begun."""
        self._begun = True
        for name in _FILES[1:]:  # of a run whose beginning no disk has taken
            with contextlib.suppress(OSError):
                (self.path / name).unlink(missing_ok=True)
        self._writer.replace(self.path / "examples.jsonl", examples, indent=None)
        values = {"format": RUN_FORMAT, **run, **surroundings()}
        self._writer.replace(self.path / "run.json", values)

    def go_on(self, changed: Mapping[str, Any]) -> None:
        """Write down that the run is gone on with, and what of `run.json` changes by that."""
        assert self.saved is not None
        self._begun = True
        run, around = self.saved.run, surroundings()
        sittings = [*run.get("resumed", ()), {**around, "after_steps": len(self.saved.steps)}]
        self._writer.replace(self.path / "run.json", {**run, **changed, "resumed": sittings})
        with contextlib.suppress(OSError):
            (self.path / "traceback.txt").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # that of a sitting before; often there is none
            (self.path / "result.json").replace(self.path / EARLIER_RESULT)

    def append_rollouts(self, prompts: Sequence[Mapping[str, Any]]) -> None:
        """The rollouts of prompts that were scored to the end, before the step that did so."""
        for prompt in prompts:
            self._writer.append(self.path / "rollouts.jsonl", prompt, durable=prompt is prompts[-1])

    def append_step(self, step: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """One finished step, and the state after it."""
        self._writer.append(self.path / "steps.jsonl", step, durable=True)
        self.write_state(state)

    def write_state(self, state: Mapping[str, Any]) -> None:
        """The loop's state, in place of the one before, once all that it knows of is written."""
        self._writer.flush()
        before = ("run.json", "examples.jsonl", "rollouts.jsonl", "steps.jsonl")
        if self._writer.has_all_of(*(self.path / name for name in before)):
            self._writer.replace(self.path / "state.json", state, indent=None)

    def write_clock(self, seconds: Mapping[str, float]) -> None:
        """How long the run took until now."""
        self._writer.replace(self.path / "clock.json", seconds, indent=None, durable=False)

    def append_row(self, row: Mapping[str, Any]) -> None:
        """An evaluated row."""
        self._writer.append(self.path / "rows.jsonl", row)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """The outcome, and the lines that a disk has not taken before."""
        self._writer.flush()
        self._writer.replace(self.path / "result.json", result)
        if self._writer.has_all_of(self.path / "result.json"):
            with contextlib.suppress(OSError):
                (self.path / EARLIER_RESULT).unlink(missing_ok=True)


def read_run(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a run directory holds: `run`, `steps`, `examples`, and `result` (None if unfinished).

    `damage` says, a line each, which files are not whole: their whole lines are there all the same.
    `failure` is the error that ended the run, in a line; None where none did.

    Raises:
        ValueError: there is no run, or none that has begun; `run.json` is damaged.
    """
    damage: list[str] = []
    folder = Path(path)
    with contextlib.suppress(RuntimeError):  # nobody's home folder
        folder = folder.expanduser()
    run = read_object(folder / "run.json", damage)
    if damage:
        raise ValueError(f"{damage[0]}: without it nothing is known of the run")
    if run is None:
        raise ValueError(f"{folder} holds no run (no run.json): name the folder given as run_dir")
    if "claimed" in run:
        raise ValueError(
            f"the run in {folder} has not begun: it loads its model still, or was ended before that"
        )
    return {
        "run": run,
        "steps": read_lines(folder / "steps.jsonl", damage),
        "examples": read_lines(folder / "examples.jsonl", damage),
        "result": read_object(folder / "result.json", damage),
        "damage": damage,
        "failure": failure_of(folder / "traceback.txt"),
    }


def failure_of(traceback: Path) -> str | None:
    """The line of a traceback that names the error: notes may follow it."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        frames = traceback.read_text(encoding="utf-8").rpartition("Traceback (most recent")[2]
        return next((line for line in frames.splitlines()[1:] if line[:1].strip()), None)
    return None


def surroundings() -> dict[str, Any]:
    """Time, versions, machine and commit, for who wants to run it again."""
    import torch
    import transformers

    cuda = torch.cuda.is_available()
    processor = processor_name() or platform.processor() or "cpu"
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {
            "greater_fast": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            **_version_of_triton(),
        },
        "machine": torch.cuda.get_device_name() if cuda else processor,
        "num_threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
    }


def processor_name() -> str | None:
    """The processor's name, where the system tells it; `platform` knows no more than its kind."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return None


def _version_of_triton() -> dict[str, str]:
    """That of what compiles the kernels, where there is one."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return {"triton": importlib.metadata.version("triton")}
    return {}


def _git_commit() -> str | None:
    """Commit of the working directory, where it is in a repository.

    Signals are heard behind it: an error out of `subprocess` at the wrong moment leaves its lock
    taken, on which it then waits for ever.
    """
    try:
        with interrupts_later():
            found = subprocess.run(
                ["git", "rev-parse", "HEAD"],  # noqa: S607 (the user's own)
                capture_output=True,
                text=True,
                check=False,
                timeout=5,
            )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
