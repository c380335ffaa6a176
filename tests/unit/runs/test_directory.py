import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from greater_fast.runs.directory import RunDirectory, read_run, surroundings
from greater_fast.version import __version__

ROOT = Path(__file__).resolve().parents[3]


def begun(path: Path) -> RunDirectory:
    directory = RunDirectory(path)
    directory.begin({"model": "m", "prompt": "think"}, [{"split": "train", "question": "q"}])
    return directory


def test_the_folder_is_the_runs_own_from_the_start(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "deep" / "run")
    with pytest.raises(
        ValueError, match=r"run holds another run \(run\.json\): name another folder"
    ):
        RunDirectory(tmp_path / "deep" / "run")
    with pytest.raises(ValueError, match="has not begun: it loads its model still, or was ended"):
        read_run(tmp_path / "deep" / "run")


def test_of_many_processes_one_gets_the_folder(tmp_path: Path) -> None:
    code = """
import sys
from greater_fast.runs.directory import RunDirectory
sys.stdin.readline()
try:
    directory = RunDirectory(sys.argv[1] if len(sys.argv) > 1 else None)
    print(directory.path, flush=True)
except ValueError as error:
    print(f"refused: {error}", flush=True)
sys.stdin.readline()  # what a process that ended had only claimed is free again
"""
    for arguments in ([str(tmp_path / "run")], []):
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(6)
        ]
        for process in processes:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        told = []
        for process in processes:
            assert process.stdout
            told.append(process.stdout.readline().strip())
        for process in processes:
            process.communicate("go\n")
        refused = [line for line in told if line.startswith("refused: run_dir")]
        assert len(refused) == (5 if arguments else 0)
        assert len(set(told) - set(refused)) == (1 if arguments else 6)


def test_a_run_that_does_not_begin_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for folder in (tmp_path / "deep" / "run", tmp_path / "mine"):
        with pytest.raises(ValueError, match="no rows"), RunDirectory(folder):
            raise ValueError("no rows")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_run_that_fails_leaves_the_traceback(tmp_path: Path) -> None:
    directory = begun(tmp_path / "run")
    with pytest.raises(KeyError) as caught, directory:
        raise KeyError("\x1b")
    text = (tmp_path / "run" / "traceback.txt").read_text()
    assert "in test_a_run_that_fails_leaves_the_traceback" in text
    assert text.endswith("KeyError: '\\x1b'\n")
    assert caught.value.__notes__ == [
        f"what the run wrote, and this error's traceback, are in {tmp_path / 'run'}"
    ]


def test_run_json_holds_versions_machine_and_time(tmp_path: Path) -> None:
    begun(tmp_path / "deep" / "run")
    run = json.loads((tmp_path / "deep" / "run" / "run.json").read_text())
    assert (run["model"], run["prompt"]) == ("m", "think")
    assert run["versions"]["greater_fast"] == __version__
    assert run["versions"]["torch"] == torch.__version__
    assert run["num_threads"] == torch.get_num_threads()
    named = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    if named and not torch.cuda.is_available():
        assert run["machine"] == named[1].strip()
    assert run["machine"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", run["started"])


def test_steps_are_flushed_line_by_line(tmp_path: Path) -> None:
    directory = begun(tmp_path)
    for number in range(3):
        directory.append_step({"step": number, "prompt": "naïve"}, {"step": number + 1})
        lines = (tmp_path / "steps.jsonl").read_bytes()
        assert lines.endswith(b"\n")
        assert [json.loads(line)["step"] for line in lines.splitlines()] == [*range(number + 1)]
        assert json.loads((tmp_path / "state.json").read_text())["step"] == number + 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock",
        "examples.jsonl",
        "run.json",
        "state.json",
        "steps.jsonl",
    ]


def test_whole_files_are_replaced_at_once(tmp_path: Path) -> None:
    directory = begun(tmp_path)
    directory.write_result({"prompt": "good"})
    with pytest.raises(TypeError):
        directory.write_result({"prompt": object()})
    assert read_run(tmp_path)["result"] == {"prompt": "good"}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    directory = begun(tmp_path)
    assert read_run(tmp_path)["steps"] == []
    assert read_run(tmp_path)["result"] is None
    directory.append_step({"step": 0}, {})
    directory.append_row({"predicted": "A"})
    directory.append_row({"predicted": "B"})
    directory.write_result({"prompt": "p"})
    run = read_run(tmp_path)
    assert run["run"]["model"] == "m"
    assert run["examples"] == [{"split": "train", "question": "q"}]
    assert run["steps"] == [{"step": 0}]
    assert run["result"] == {"prompt": "p"}
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "cut", [b"", b'{"step": 2, "prom', '{"step": 2, "prompt": "é'.encode()[:-1]]
)
def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path, cut: bytes) -> None:
    directory = begun(tmp_path)
    for number in range(2):
        directory.append_step({"step": number}, {})
    with (tmp_path / "steps.jsonl").open("ab") as file:
        file.write(cut)
    assert read_run(tmp_path)["steps"] == [{"step": 0}, {"step": 1}]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\r", "\n"])
def test_line_breaks_within_text_do_not_cut_lines(tmp_path: Path, mark: str) -> None:
    directory = begun(tmp_path)
    directory.append_step({"prompt": f"a{mark}b"}, {})
    assert read_run(tmp_path)["steps"] == [{"prompt": f"a{mark}b"}]


def test_another_run_is_refused(tmp_path: Path) -> None:
    begun(tmp_path / "first").append_step({}, {})
    with pytest.raises(
        ValueError, match=r"first holds another run \(run\.json, examples\.jsonl, steps\.jsonl"
    ):
        RunDirectory(tmp_path / "first")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file: name a folder"):
        RunDirectory(tmp_path / "file")


def test_a_folder_with_other_files_is_taken(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    begun(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_default_folder_is_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = []
    for _ in range(3):
        directory = RunDirectory(None)
        directory.begin({}, [])
        paths.append(directory.path)
    assert len(set(paths)) == 3
    names = [path.relative_to(tmp_path / "runs").as_posix() for path in paths]
    assert all(re.fullmatch(r"\d{8}-\d{6}(-\d+)?", name) for name in names)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "absent" / "too")
    for path in (tmp_path / "file" / "run", tmp_path / "link", "/proc/run"):
        with pytest.raises(ValueError, match=r"^run_dir"):
            RunDirectory(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "link"]


def test_a_working_folder_that_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    directory = RunDirectory("run")
    monkeypatch.chdir(tmp_path / "elsewhere")
    directory.begin({"model": "m"}, [])
    assert read_run(tmp_path / "run")["run"]["model"] == "m"
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[1]", b"", b"null", b"[" * 99_999])
def test_damaged_files_are_named_and_the_whole_ones_read(tmp_path: Path, content: bytes) -> None:
    directory = begun(tmp_path)
    for number in range(3):
        directory.append_step({"step": number}, {})
    directory.write_result({"prompt": "p"})
    assert read_run(tmp_path)["damage"] == []
    log = (tmp_path / "steps.jsonl").read_bytes().split(b"\n")
    log[1] = content
    (tmp_path / "steps.jsonl").write_bytes(b"\n".join(log))
    (tmp_path / "result.json").write_bytes(content)
    run = read_run(tmp_path)
    assert (run["steps"], run["result"]) == ([{"step": 0}, {"step": 2}], None)
    steps, result = run["damage"]
    assert steps == f"{tmp_path}/steps.jsonl: 1 of 3 lines are damaged (2)"
    assert result.startswith(f"{tmp_path}/result.json cannot be read: ")
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"run\.json cannot be read: .*nothing is known of the run"
    ):
        read_run(tmp_path)


def test_files_that_are_folders(tmp_path: Path) -> None:
    begun(tmp_path)
    for name in ("steps.jsonl", "result.json"):
        (tmp_path / name).mkdir()
    run = read_run(tmp_path)
    assert (run["steps"], run["result"], len(run["damage"])) == ([], None, 2)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000])
def test_folders_that_cannot_be(path: str) -> None:
    with pytest.raises(ValueError, match="run") as told:
        read_run(path)
    assert len(str(told.value)) < 1000


def test_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no run .*: name the folder given as run_dir"):
        read_run(tmp_path)
    with pytest.raises(ValueError, match="holds no run"):
        read_run(tmp_path / "absent")


def test_commit_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    begun(tmp_path / "outside")
    assert read_run(tmp_path / "outside")["run"]["git_commit"] is None
    git = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    begun(tmp_path / "inside")
    assert re.fullmatch("[0-9a-f]{40}", read_run(tmp_path / "inside")["run"]["git_commit"])


def test_no_git_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*args: object, **kwargs: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", absent)
    begun(tmp_path)
    assert read_run(tmp_path)["run"]["git_commit"] is None


def test_a_signal_is_heard_behind_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the midst of `subprocess` may leave its lock taken, and it waits for ever."""
    ended = []

    def run(arguments: list[str], **options: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        ended.append(arguments[0])
        return subprocess.CompletedProcess(arguments, 0, "abc\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(KeyboardInterrupt):
        surroundings()
    assert ended == ["git"]
