import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from greater_fast.runs.directory import RunDirectory
from greater_fast.runs.saved.lock import LOCK_FILE, FolderLock, holder, place

ROOT = Path(__file__).resolve().parents[4]
HOLDING = """
import sys, pathlib
from greater_fast.runs.saved.lock import FolderLock
lock = FolderLock(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_one_is_refused_at_once_until_the_first_is_released(tmp_path: Path) -> None:
    first = FolderLock(tmp_path)
    with pytest.raises(BlockingIOError):
        FolderLock(tmp_path)
    assert holder(tmp_path) == f"process {os.getpid()}"
    first.release()
    first.release()  # nothing
    second = FolderLock(tmp_path)
    second.release(remove=True)
    assert not list(tmp_path.iterdir())


def test_a_killed_process_holds_none(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError):
        FolderLock(tmp_path)
    assert holder(tmp_path) == f"process {process.pid}"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    FolderLock(tmp_path).release()


def test_a_file_system_without_locks_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunDirectory(tmp_path / "locked") as directory:
        assert directory.notes == ()

    def flock(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", flock)
    with RunDirectory(tmp_path / "run") as directory:
        assert directory.notes == (
            f"{tmp_path / 'run'} is not locked, as its file system has no locks (Operation not "
            "supported): begin or resume no other run there while this one goes on",
        )


def test_a_lock_that_was_removed_is_nobodys(tmp_path: Path) -> None:
    first = FolderLock(tmp_path)
    (tmp_path / LOCK_FILE).unlink()
    second = FolderLock(tmp_path)
    first.release()
    with pytest.raises(BlockingIOError):
        FolderLock(tmp_path)
    second.release()


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    for lock in (FolderLock(tmp_path), FolderLock(tmp_path)):
        lock.release()


def test_who_holds_it_is_told(tmp_path: Path) -> None:
    assert holder(tmp_path) == "another process"
    (tmp_path / LOCK_FILE).write_text("")
    assert holder(tmp_path) == "another process"
    (tmp_path / LOCK_FILE).write_text("12\nbox pid:[4026531836]\n")
    assert holder(tmp_path) == "process 12 on 'box'"
    for where in ("", f"{place()}\n"):
        (tmp_path / LOCK_FILE).write_text(f"12\n{where}")
        assert holder(tmp_path) == "process 12"


def test_a_run_at_work_is_not_gone_on_with(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run") as directory:
        directory.begin({"model": "m"}, [{"split": "train"}])
        with pytest.raises(ValueError, match=rf"process {os.getpid()} is at work on the run"):
            RunDirectory(tmp_path / "run", resume=True)
    with RunDirectory(tmp_path / "run", resume=True) as directory:
        assert directory.saved
        assert directory.saved.run["model"] == "m"
