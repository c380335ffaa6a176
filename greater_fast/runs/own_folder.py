"""A folder that is one run's alone, from the start and whoever else begins one."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from greater_fast.runs.writer import make_folders, new_path


class OwnFolder:
    """The folder `path`, or with `fresh` a new one in it that is named by the time.

    Its own is the run that makes the first of `files`, which one process alone can. Other files may
    lie there. `path` is absolute from here on.

    Raises:
        ValueError: one of `files` is there already, or nothing can be written.
    """

    def __init__(self, path: str | os.PathLike[str], files: Sequence[str], fresh: bool) -> None:
        self.path = new_path("run_dir", path)
        self._claim_file = files[0]
        self._is_claimed = False
        try:
            with _refusing(self.path):
                self._made = make_folders(self.path)
        except FileExistsError as error:
            raise ValueError(f"run_dir {self.path} is a file: name a folder") from error
        if fresh:
            self._make_inside()
        self._claim(files)

    def take_back(self) -> None:
        """Remove what was made, as far as it is empty."""
        with contextlib.suppress(OSError):
            if self._is_claimed:  # else it is another run's
                (self.path / self._claim_file).unlink(missing_ok=True)
            for folder in self._made:
                folder.rmdir()

    def _make_inside(self) -> None:
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        for suffix in itertools.chain([""], map("-{}".format, itertools.count())):
            folder = self.path / f"{stamp}{suffix}"
            with contextlib.suppress(FileExistsError), _refusing(self.path):
                folder.mkdir()
                break
        self._made.insert(0, folder)
        self.path = folder

    def _claim(self, files: Sequence[str]) -> None:
        held = [name for name in files if os.path.lexists(self.path / name)]
        if not held:
            started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            line = json.dumps({"claimed": started, "process": os.getpid()})
            try:
                with _refusing(self.path), (self.path / self._claim_file).open("x") as file:
                    self._is_claimed = True
                    file.write(line + "\n")
            except FileExistsError:
                held = [self._claim_file]
            except ValueError:
                self.take_back()
                raise
        if held:
            raise ValueError(
                f"run_dir {self.path} holds another run ({', '.join(held)}): name another folder, "
                "or remove that one"
            )


@contextlib.contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    """Turn what a file system says into a ValueError; that something is there already is none."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise ValueError(
            f"run_dir {folder}: nothing can be written there ({error.strerror}); name another "
            "folder"
        ) from error
