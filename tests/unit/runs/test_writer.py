"""Files that cannot be written: told once, nothing torn, and all there when there is room again."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from greater_fast.runs.writer import Writer, new_path


@contextlib.contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Lets files get so long; all of the process's, so no longer than for a write or two."""
    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN  # so that it is an OSError
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_that_does_not_fit_is_written_later(tmp_path: Path) -> None:
    writer, path = Writer(), tmp_path / "lines.jsonl"
    writer.append(path, {"n": 0})
    message = r"lines\.jsonl could not be written: File too large"
    with pytest.warns(RuntimeWarning, match=message), disk_of(20):
        writer.append(path, {"n": 1, "text": "x" * 40})
    assert lines(path) == [{"n": 0}]
    with disk_of(20):
        writer.append(path, {"n": 2})  # told once: warnings are errors here
    assert lines(path) == [{"n": 0}]
    assert writer.problem is not None
    writer.append(path, {"n": 3})
    assert [line["n"] for line in lines(path)] == [0, 1, 2, 3]


def test_the_last_lines_are_tried_once_more_at_the_end(tmp_path: Path) -> None:
    writer, path = Writer(), tmp_path / "lines.jsonl"
    with pytest.warns(RuntimeWarning, match="could not be written"), disk_of(5):
        writer.append(path, {"text": "x" * 40})
    writer.flush()
    assert lines(path) == [{"text": "x" * 40}]
    writer.flush()
    assert len(lines(path)) == 1


def test_a_file_that_does_not_fit_leaves_the_one_before(tmp_path: Path) -> None:
    writer, path = Writer(), tmp_path / "state.json"
    writer.replace(path, {"step": 1})
    with pytest.warns(RuntimeWarning, match=r"state\.json could not be written"), disk_of(20):
        writer.replace(path, {"step": 2, "text": "x" * 40})
    assert json.loads(path.read_text()) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


def test_a_file_that_did_not_fit_is_tried_again(tmp_path: Path) -> None:
    writer, path = Writer(), tmp_path / "run.json"
    with pytest.warns(RuntimeWarning, match=r"run\.json could not be written"), disk_of(20):
        writer.replace(path, {"text": "x" * 40})
    writer.flush()
    assert json.loads(path.read_text()) == {"text": "x" * 40}
    path.unlink()
    writer.flush()
    assert not path.exists()


def test_several_values_are_a_line_each(tmp_path: Path) -> None:
    writer, path = Writer(), tmp_path / "lines.jsonl"
    writer.append(path, {"n": 9}, durable=True)
    writer.replace(path, ({"n": n} for n in range(3)), indent=None)
    assert lines(path) == [{"n": n} for n in range(3)]
    writer.replace(path, [], indent=None)
    assert path.read_bytes() == b""


def test_who_waits_for_lines_knows_whether_they_are_there(tmp_path: Path) -> None:
    writer, path = Writer(), tmp_path / "lines.jsonl"
    with pytest.warns(RuntimeWarning, match="could not be written"), disk_of(5):
        writer.append(path, {"text": "x" * 40})
    assert not writer.has_all_of(tmp_path / "other", path)
    assert writer.has_all_of(tmp_path / "other")
    writer.flush()
    assert writer.has_all_of(path)


def test_lines_that_are_written_later_are_on_the_disk_before_what_knows_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, path, synced = Writer(), tmp_path / "lines.jsonl", list[str]()
    plain = os.fsync

    def fsync(number: int) -> None:
        synced.append(Path(f"/proc/self/fd/{number}").readlink().name)
        plain(number)

    with pytest.warns(RuntimeWarning, match="could not be written"), disk_of(5):
        writer.append(path, {"text": "x" * 40}, durable=True)
    monkeypatch.setattr(os, "fsync", fsync)
    writer.flush()
    writer.replace(tmp_path / "state.json", {})
    assert synced == ["lines.jsonl", ".state.json", tmp_path.name]


def test_a_folder_that_is_gone_is_told_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    writer = Writer()
    writer.append(folder / "a.jsonl", {})
    shutil.rmtree(folder)
    with pytest.warns(RuntimeWarning, match="the run goes on, and its result is returned"):
        writer.append(folder / "a.jsonl", {})
    writer.replace(folder / "b.json", {})  # warnings are errors here
    assert not folder.exists()


def test_names_of_files_that_are_no_unicode_are_written(tmp_path: Path) -> None:
    writer, path = Writer(), tmp_path / "a.jsonl"
    writer.append(path, {"run_dir": "runs/caf\udce9", "prompt": "é"})
    assert lines(path) == [{"run_dir": "runs/caf\udce9", "prompt": "é"}]


def test_paths_are_absolute_and_know_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert new_path("run_dir", "a/b") == tmp_path / "a" / "b"
    assert new_path("run_dir", Path("~/b")) == tmp_path / "home" / "b"


@pytest.mark.parametrize(
    "path",
    ["", "  ", "a\0b", "x" * 300, "\ud800", "~nobody-of-that-name/a", 7, b"bytes", ["list"] * 999],
)
@pytest.mark.parametrize("name", ["run_dir", "records"])
def test_paths_that_no_file_can_have(name: str, path: Any) -> None:
    kind = "folder" if name == "run_dir" else "file"
    with pytest.raises(ValueError, match=f"^{name}: got .*, expected the name of a {kind}") as told:
        new_path(name, path)
    assert len(str(told.value)) < 500


def test_a_working_folder_that_is_gone(tmp_path: Path) -> None:
    code = """
import os, sys
from greater_fast.runs.writer import new_path
os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])
try:
    new_path("run_dir", "runs")
except ValueError as error:
    print(error)
"""
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, str(gone)],
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "run_dir: got 'runs', expected the name of a folder that can be had" in done.stdout
