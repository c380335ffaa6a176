"""The run directory: everything a run found, written as it happens.

run.json        settings, model, prompt, extractor, rows used, versions, seed, git commit
examples.jsonl  the rows of each split
steps.jsonl     one line a finished step, flushed
state.json      the loop's state after the last finished step
rows.jsonl      development and test rows with reasoning and answer, for each prompt tried
result.json     the outcome
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from greater_fast.version import __version__

_FILES = (
    *("run.json", "examples.jsonl", "steps.jsonl", "state.json", "rows.jsonl", "result.json"),
)


class RunDirectory:
    """Writes a run. Lines are appended and flushed, whole files replaced at once.

    Raises:
        ValueError: the folder holds another run, or a file stands in its place.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = Path(path) if path is not None else _fresh_path()
        held = [name for name in _FILES if (self.path / name).exists()]
        if held:
            raise ValueError(
                f"run_dir {self.path} holds another run ({', '.join(held)}): name another folder, "
                "or remove that one"
            )
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"run_dir {self.path} is a file: name a folder")
        nearest = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise ValueError(f"run_dir {self.path}: nothing can be written in {nearest}")

    def begin(self, run: Mapping[str, Any], examples: Iterable[Mapping[str, Any]]) -> None:
        """Make the folder, and write down what this run is."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._replace("run.json", {**run, **_surroundings()})
        for example in examples:
            self._append("examples.jsonl", example)

    def append_step(self, step: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """One finished step, and the state after it."""
        self._append("steps.jsonl", step)
        self.write_state(state)

    def write_state(self, state: Mapping[str, Any]) -> None:
        """The loop's state, in place of the one before."""
        self._replace("state.json", state, indent=None)

    def append_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Evaluated rows."""
        for row in rows:
            self._append("rows.jsonl", row)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """The outcome."""
        self._replace("result.json", result)

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _replace(self, name: str, values: Mapping[str, Any], indent: int | None = 2) -> None:
        unfinished = self.path / f".{name}"
        unfinished.write_text(
            json.dumps(values, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8"
        )
        unfinished.replace(self.path / name)


def read_run(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a run directory holds: `run`, `steps`, `examples`, and `result` (None if unfinished).

    Raises:
        ValueError: there is no run.
    """
    folder = Path(path)
    if not (folder / "run.json").is_file():
        raise ValueError(f"{folder} holds no run (no run.json): name the folder given as run_dir")
    result = folder / "result.json"
    return {
        "run": json.loads((folder / "run.json").read_text(encoding="utf-8")),
        "steps": _lines(folder / "steps.jsonl"),
        "examples": _lines(folder / "examples.jsonl"),
        "result": json.loads(result.read_text(encoding="utf-8")) if result.is_file() else None,
    }


def _lines(path: Path) -> list[Any]:
    """Whole lines of a JSONL file; a last line that was cut off by a kill is left out."""
    if not path.is_file():
        return []
    # As bytes: the cut may be inside a character, and text would be split at U+2028 as well.
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def _fresh_path() -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    numbered = (Path("runs") / f"{stamp}{suffix}" for suffix in ("", *map("-{}".format, range(99))))
    return next(path for path in numbered if not path.exists())


def _surroundings() -> dict[str, Any]:
    """Versions, machine and commit, for who wants to run it again."""
    import torch
    import transformers

    cuda = torch.cuda.is_available()
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {
            "greater_fast": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "machine": torch.cuda.get_device_name() if cuda else platform.processor() or "cpu",
        "num_threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Commit of the working directory, where it is in a repository."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
