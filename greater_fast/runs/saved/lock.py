"""One process at a time in a run directory: a lock that the system takes back from a dead one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
from pathlib import Path

from greater_fast.wording import quoted

LOCK_FILE = ".lock"


class FolderLock:
    """The lock of a folder, held until `release` or the process's end.

    It lies on an open file (`flock`): whoever is killed holds none. The file itself may stay, with
    the holder's number in it, and the `place` where that is its number. On a file system without
    such locks none is held, and `problem` says so.

    Raises:
        BlockingIOError: another process holds it, or another run of this one.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self.problem = folder / LOCK_FILE, ""
        while True:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                self._lock()
                # One that its holder has removed meanwhile is nobody's: another may be there now.
                if os.path.samestat(os.fstat(self._file), self._path.stat()):
                    break
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(self._file)
                raise
            os.close(self._file)
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)
            os.write(self._file, f"{os.getpid()}\n{place()}\n".encode())

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:  # a file system without locks
            self.problem = (
                f"{self._path.parent} is not locked, as its file system has no locks "
                f"({error.strerror}): begin or resume no other run there while this one goes on"
            )

    def release(self, *, remove: bool = False) -> None:
        """Let others have the folder; with `remove`, without the lock's file."""
        if self._file < 0:
            return
        if remove:
            with contextlib.suppress(OSError):
                self._path.unlink()
        os.close(self._file)
        self._file = -1


def place() -> str:
    """Where a process has its number: this machine's name, and its container's, in one line."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return f"{platform.node()} {namespace}"


def read_holder(lock: Path) -> tuple[int, str]:
    """The number that a lock's file names, and the place where it is the holder's.

    Raises:
        OSError, ValueError: it names none.
    """
    number, _, where = lock.read_text(encoding="utf-8").partition("\n")
    return int(number), where.strip("\n")


def holder(folder: Path) -> str:
    """Who holds a folder's lock, for a message: "process 123", or "another process"."""
    with contextlib.suppress(OSError, ValueError):
        number, where = read_holder(folder / LOCK_FILE)
        machine = where.partition(" ")[0]
        is_here = where in ("", place())  # older files name no place
        return f"process {number}" + ("" if is_here else f" on {quoted(machine)}")
    return "another process"
