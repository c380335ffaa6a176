"""Files that a run writes as it goes: an error of writing is told once, and never ends the run."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from greater_fast.ctrl_c import interrupts_later
from greater_fast.wording import quoted


class Writer:
    """Writes lines and whole files. What a disk does not take is kept, and tried again later.

    A signal is heard behind what is being written. `problem` says what could not be written, and
    why; None as long as all was.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        self._lines: dict[Path, bytes] = {}  # what no disk has taken yet
        self._wholes: dict[Path, tuple[bytes, bool]] = {}
        self._torn: dict[Path, int] = {}  # sizes of files behind which there is half a line

    def append(self, path: Path, line: Mapping[str, Any], *, durable: bool = False) -> None:
        """Write a line of JSON behind those of a file: a whole line, or nothing for now.

        What is `durable` is on the disk when this returns, and outlives a loss of power.
        """
        self._lines[path] = self._lines.get(path, b"") + _encoded(line)
        self._write_lines(path, durable)

    def replace(
        self,
        path: Path,
        values: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        indent: int | None = 2,
        *,
        durable: bool = True,
    ) -> None:
        """Put values, as JSON, in a file's place, all at once; several, a line each."""
        objects = [values] if isinstance(values, Mapping) else list(values)
        self._wholes[path] = b"".join(_encoded(value, indent) for value in objects), durable
        self._write_whole(path)

    def has_all_of(self, *paths: Path) -> bool:
        """Whether all that these files should hold is written."""
        return not any(path in self._lines or path in self._wholes for path in paths)

    def flush(self) -> None:
        """Try once more to write what a disk did not take; what is written now is durable."""
        for path in list(self._wholes):
            self._write_whole(path)
        for path in list(self._lines):
            self._write_lines(path, durable=True)

    def _write_lines(self, path: Path, durable: bool = False) -> None:
        """Add a file's lines to it: all of them or, with an error, none."""
        content = self._lines[path]
        with interrupts_later(), self._telling(path), path.open("ab", buffering=0) as file:
            end = file.tell()
            size = min(end, self._torn.pop(path, end))
            try:
                if size < end:
                    file.truncate(size)
                written = 0
                while written < len(content):  # a disk that fills up takes a part first
                    written += file.write(content[written:]) or 0
                if durable:
                    os.fsync(file.fileno())
            except OSError:
                self._torn[path] = size  # if that fails, too
                file.truncate(size)
                raise
            del self._lines[path]

    def _write_whole(self, path: Path) -> None:
        """Put a file's content in its place: all of it or, with an error, what was there stays."""
        content, durable = self._wholes[path]
        unfinished = path.with_name(f".{path.name}")
        with interrupts_later(), self._telling(path):
            try:
                with unfinished.open("wb") as file:
                    file.write(content)
                    file.flush()
                    if durable:
                        os.fsync(file.fileno())
                unfinished.replace(path)
                del self._wholes[path]
                if durable:
                    _sync_folder(path.parent)
            except OSError:
                with contextlib.suppress(OSError):
                    unfinished.unlink(missing_ok=True)
                raise

    @contextlib.contextmanager
    def _telling(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            known, self.problem = self.problem, f"{path} could not be written: {error.strerror}"
            if known is None:
                warnings.warn(
                    f"{self.problem}; the run goes on, and its result is returned",
                    RuntimeWarning,
                    stacklevel=1,
                )


def new_path(name: str, path: object) -> Path:
    """The absolute path that a user means; `~` is the home folder. Nothing is made.

    Raises:
        ValueError: no file system has such a path; `name` is what the user calls it.
    """
    problem = f"expected the name of a {'folder' if name == 'run_dir' else 'file'}"
    if not isinstance(path, str | os.PathLike) or not str(path).strip():
        raise ValueError(f"{name}: got {quoted(path)}, {problem}")
    try:
        absolute = Path(path).expanduser().absolute()
        with contextlib.suppress(FileNotFoundError):
            absolute.stat()
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{name}: got {quoted(path)}, {problem} that can be had: {why}") from error
    return absolute


def make_folders(folder: Path) -> list[Path]:
    """Make a folder and those that it is in; the ones that were not there, the deepest first."""
    absent = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return absent


def take_back(path: Path, folders: Iterable[Path]) -> None:
    """Remove a file in which nothing came, and the folders that were made for it, if they can be.

    `folders` are those of `make_folders`; the first that others use by now stays, with the rest.
    """
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        for folder in folders:
            folder.rmdir()


def _encoded(values: Mapping[str, Any], indent: int | None = None) -> bytes:
    """JSON in UTF-8 with a line break; half characters (of a file's name) as JSON escapes them."""
    text = json.dumps(values, ensure_ascii=False, indent=indent) + "\n"
    return text.encode("utf-8", "backslashreplace")


def _sync_folder(folder: Path) -> None:
    """Make sure that a name in a folder outlives a loss of power, where the file system can."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
