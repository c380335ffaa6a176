import json
import re
import subprocess
from pathlib import Path

import pytest
import torch

from greater_fast.runs.directory import RunDirectory, read_run
from greater_fast.version import __version__


def begun(path: Path) -> RunDirectory:
    directory = RunDirectory(path)
    directory.begin({"model": "m", "prompt": "think"}, [{"split": "train", "question": "q"}])
    return directory


def test_nothing_is_written_before_the_run_begins(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "deep" / "run")
    assert list(tmp_path.iterdir()) == []


def test_run_json_holds_versions_machine_and_time(tmp_path: Path) -> None:
    begun(tmp_path / "deep" / "run")
    run = json.loads((tmp_path / "deep" / "run" / "run.json").read_text())
    assert (run["model"], run["prompt"]) == ("m", "think")
    assert run["versions"]["greater_fast"] == __version__
    assert run["versions"]["torch"] == torch.__version__
    assert run["num_threads"] == torch.get_num_threads()
    assert run["machine"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", run["started"])


def test_steps_are_flushed_line_by_line(tmp_path: Path) -> None:
    directory = begun(tmp_path)
    for number in range(3):
        directory.append_step({"step": number, "prompt": "naïve"}, {"step": number + 1})
        lines = (tmp_path / "steps.jsonl").read_bytes()
        assert lines.endswith(b"\n")
        assert [json.loads(line)["step"] for line in lines.splitlines()] == [*range(number + 1)]
        assert json.loads((tmp_path / "state.json").read_text()) == {"step": number + 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
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
    directory.append_rows([{"predicted": "A"}, {"predicted": "B"}])
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
    assert all(re.fullmatch(r"runs/\d{8}-\d{6}(-\d+)?", path.as_posix()) for path in paths)


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
