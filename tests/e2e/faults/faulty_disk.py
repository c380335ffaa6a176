"""A disk that fails: every write to files under a folder is counted, and some of them refused.

It stands between Python's files and the system: what opens, writes, syncs, renames and makes
folders there. A write that is refused has taken half of its content first, as a disk does that
fills up.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


class FaultyDisk:
    """Refuses, of all writes, those numbered `refused`; `writes` names all that came."""

    def __init__(self, folder: Path, refused: range, number: int) -> None:
        self.writes: list[str] = []
        self._folder, self._refused, self._error = folder, refused, number

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Let all of the process write to it."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("mkdir", "replace"):
                patch.setattr(Path, name, self._refusing(name, getattr(Path, name)))
            patch.setattr(Path, "open", self._opening(Path.open))
            patch.setattr(os, "open", self._making(os.open))
            patch.setattr(os, "truncate", self._refusing("truncate", os.truncate))
            yield

    def takes(self, what: str, path: Path) -> bool:
        """Count a write, and say whether it is taken."""
        self.writes.append(f"{what} {path.name}")
        return len(self.writes) - 1 not in self._refused

    def refuse(self, path: Path) -> None:
        """Say what the system says."""
        raise OSError(self._error, os.strerror(self._error), str(path))

    def _is_here(self, path: Path) -> bool:
        return path.is_relative_to(self._folder)

    def _refusing(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Path, *arguments: Any, **options: Any) -> Any:
            if self._is_here(path) and not self.takes(name, path):
                self.refuse(path)
            return plain(path, *arguments, **options)

        return call

    def _opening(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if not self._is_here(path) or not set(mode) & set("wax"):
                return plain(path, mode, *arguments, **options)
            if not self.takes("open", path):
                self.refuse(path)
            return _File(plain(path, mode, *arguments, **options), path, self)

        return call

    def _making(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(name: Any, flags: int, *arguments: Any, **options: Any) -> Any:
            path = Path(name)
            if flags & os.O_CREAT and self._is_here(path) and not self.takes("make", path):
                self.refuse(path)
            return plain(name, flags, *arguments, **options)

        return call


class _File:
    """An open file on such a disk."""

    def __init__(self, file: Any, path: Path, disk: FaultyDisk) -> None:
        self._file, self._path, self._disk = file, path, disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, content: Any) -> Any:
        if self._disk.takes("write", self._path):
            return self._file.write(content)
        self._file.write(content[: len(content) // 2])
        return self._disk.refuse(self._path)

    def truncate(self, size: int) -> Any:
        if self._disk.takes("truncate", self._path):
            return self._file.truncate(size)
        return self._disk.refuse(self._path)

    def fileno(self) -> int:  # asked for by who syncs
        if not self._disk.takes("sync", self._path):
            self._disk.refuse(self._path)
        return int(self._file.fileno())
