"""A folder that is one run's alone, whoever else begins one there or goes on with it."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from greater_fast.runs.saved.lock import FolderLock, holder
from greater_fast.runs.writer import make_folders, new_path

_CLAIM = b'{"claimed"'  # how one begins; a kill may cut it off anywhere


class OwnFolder:
    """The folder `path`, or with `fresh` a new one in it that is named by the time.

    Its own is the run that makes the first of `files`, which one process alone can; where that is
    all, with the second, of a process that has ended, it is free to take again. Other files may lie
    there. With `resume` a run that is there may be gone on with (`is_resumed`). Either way the
    folder is locked until `release`. `path` is absolute from here on.

    Raises:
        ValueError: one of `files` is there already, another process is at work there, or nothing
            can be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        files: Sequence[str],
        *,
        fresh: bool = False,
        resume: bool = False,
    ) -> None:
        self.path = new_path("run_dir", path)
        self._claim_file, self._others = files[0], tuple(files[1:])
        self._is_claimed = self.is_resumed = False
        self._lock: FolderLock | None = None
        try:
            with _refusing(self.path):
                self._made = make_folders(self.path)
        except FileExistsError as error:
            raise ValueError(f"run_dir {self.path} is a file: name a folder") from error
        if fresh:
            self._make_inside()
        held = [name for name in files if os.path.lexists(self.path / name)]
        is_claim = held in ([*files[:1]], [*files[:2]]) and self._is_claim()
        if held and not resume and not is_claim:
            raise self._is_anothers(held)
        try:
            with _refusing(self.path):
                self._lock = FolderLock(self.path)
        except BlockingIOError as error:
            if held and not resume:
                raise self._is_anothers(held) from error
            raise ValueError(
                f"run_dir {self.path}: {holder(self.path)} is at work on the run there; wait for "
                "it to end, or stop it"
            ) from error
        except ValueError:
            self.take_back()
            raise
        self.is_resumed = resume and os.path.lexists(self.path / self._claim_file)
        if is_claim and not resume and self._is_claim():
            self.begin_anew()  # still, and nobody holds its lock
        elif not self.is_resumed:
            self._claim(files, resume)

    @property
    def lock_problem(self) -> str:
        """Why nothing keeps other processes out; "" where the folder is locked."""
        return self._lock.problem if self._lock else ""

    def begin_anew(self) -> None:
        """Take a claim over that came to nothing: its process ended before the run began."""
        self._is_claimed, self.is_resumed = True, False

    def release(self) -> None:
        """Let other processes have the folder; what lies in it stays."""
        if self._lock is not None:
            self._lock.release()

    def take_back(self) -> None:
        """Remove what was made, as far as it is empty: a claim stays beside what it is of."""
        claim = self.path / self._claim_file
        is_alone = not any(os.path.lexists(self.path / name) for name in self._others)
        with contextlib.suppress(OSError):
            if self._is_claimed and is_alone:  # else it is another run's
                claim.unlink(missing_ok=True)
            if self._lock is not None and not os.path.lexists(claim):
                self._lock.release(remove=True)
            for folder in self._made:
                folder.rmdir()
        self.release()

    def _make_inside(self) -> None:
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        for suffix in itertools.chain([""], map("-{}".format, itertools.count())):
            folder = self.path / f"{stamp}{suffix}"
            with contextlib.suppress(FileExistsError), _refusing(self.path):
                folder.mkdir()
                break
        self._made.insert(0, folder)
        self.path = folder

    def _claim(self, files: Sequence[str], resume: bool) -> None:
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
            self.release()
            raise self._is_anothers(held, resume)

    def _is_claim(self) -> bool:
        """Whether the claim is no more than that: its process ended before, or loads still."""
        try:
            content = (self.path / self._claim_file).read_bytes()
            is_torn = content.startswith(_CLAIM) or _CLAIM.startswith(content)
            return is_torn if not content.endswith(b"\n") else "claimed" in json.loads(content)
        except (OSError, ValueError):
            return False

    def _is_anothers(self, held: Sequence[str], resume: bool = False) -> ValueError:
        if resume and self._claim_file not in held:
            return ValueError(
                f"run_dir {self.path} holds files of a run ({', '.join(held)}) without its "
                f"{self._claim_file}, without which it cannot be gone on with: put it back, or "
                "begin anew in another folder"
            )
        return ValueError(
            f"run_dir {self.path} holds another run ({', '.join(held)}): name another folder, "
            "remove that one, or go on with that run (resume)"
        )


@contextlib.contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    """Turn what a file system says into a ValueError; that something is there already is none."""
    try:
        yield
    except (FileExistsError, BlockingIOError):
        raise
    except OSError as error:
        raise ValueError(
            f"run_dir {folder}: nothing can be written there ({error.strerror}); name another "
            "folder"
        ) from error
