"""Outputs of every kind: not UTF-8, full, closed; errors inside; Ctrl-C; texts that steer."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import greater_fast
from greater_fast.cli import commands
from greater_fast.cli.main import main
from greater_fast.runs.directory import read_run
from tests.tiny import PROMPT

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")
ROOT = Path(__file__).resolve().parents[3]
WILD = "Denk nach – 思考 \x1b]0;owned\x07\u202e!"


@pytest.fixture
def wild(finished: Path, tmp_path: Path) -> Path:
    """A finished run whose prompts are not ASCII, and would steer a terminal."""
    run = tmp_path / "wild \x1b[31m"
    shutil.copytree(finished, run)
    for name in ("run.json", "steps.jsonl", "result.json"):
        text = (run / name).read_text(encoding="utf-8")
        text = text.replace(json.dumps(PROMPT), json.dumps(WILD))
        (run / name).write_text(text, encoding="utf-8")
    return run


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("as_json", [True, False])
def test_every_encoding_of_the_output(
    wild: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, as_json: bool
) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", shown)
    assert main(["show", str(wild), *(["--json"] if as_json else [])]) == 0
    shown.flush()
    text = shown.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    if as_json:
        run = read_run(wild)
        assert json.loads(text) == {key: run[key] for key in ("run", "steps", "result")}
    else:
        dash = "–" if encoding in ("utf-8", "cp1252") else "\\u2013"
        assert f"initial prompt: Denk nach {dash} " in text
        assert "\\u001b]0;owned\\u0007\\u202e!" in text


def test_a_program_without_unicode(wild: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "greater_fast", "show", str(wild)],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"initial prompt: Denk nach \\u2013 \\u601d\\u8003 \\u001b]0;owned" in done.stdout


def test_errors_show_no_more_than_the_text_that_they_name(
    command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"\x1b[2Jcolumn\u202e" * 2000: "a", "b": "c"}) + "\n")
    done = command("optimize", "--model", "m", "--train", data)
    assert done.status == 2
    assert not {"\x1b", "\u202e"} & set(done.err)
    assert len(done.err) < 5000
    with pytest.raises(SystemExit):
        main(["show", "a", "\x1b[31m" + "b" * 9000])
    text = capsys.readouterr().err
    assert "\x1b" not in text
    assert len(text) < 3000


def test_an_output_that_nobody_reads(wild: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["show", str(wild)]) == 141


def test_a_table_that_nobody_reads_to_its_end(wild: Path) -> None:
    """A reader that takes one line of many, and closes."""
    long = [json.dumps(read_run(wild)["steps"][0] | {"step": n}) for n in range(3000)]
    (wild / "steps.jsonl").write_text("\n".join(long) + "\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "greater_fast", "show", str(wild)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    told = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), told) == (141, b"")


def test_a_run_that_was_moved_is_named_where_it_is(
    finished: Path, tmp_path: Path, command: Any
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved)
    told = command("show", moved).out
    assert f"run directory: {moved}" in told
    assert str(finished) not in told


def test_an_output_that_is_full(
    model_folder: Path,
    data: Path,
    limits: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--model", model_folder, "--train", data, "--run-dir", tmp_path / "run", *limits]
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["optimize", *map(str, arguments)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (
        "greater-fast: OSError: [Errno 28] No space left on device; the result is in "
        f"{tmp_path / 'run'}"
    )
    assert read_run(tmp_path / "run")["result"]["stopped"] == "all steps done"


@pytest.mark.parametrize("error", [ValueError("not enough values"), KeyError("a"), OSError(5, "b")])
def test_errors_inside_are_status_1(
    command: Any, data: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(commands, "optimize", fail)
    arguments = ("optimize", "--model", "m", "--train", data)
    done = command(*arguments)
    assert (done.status, done.out) == (1, "")
    kind = f"greater-fast: {type(error).__name__}: {error}"
    assert done.err == f"{kind}; where in the program: --debug\n"
    done = command(*arguments, "--debug")
    assert done.status == 1
    assert done.err.startswith("Traceback (most recent call last):")
    assert done.err.endswith(f"\n{kind}\n")


def test_an_error_in_a_run_names_its_folder(
    command: Any,
    model_folder: Path,
    data: Path,
    limits: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: Any) -> None:
        raise ValueError("not enough values to unpack")

    monkeypatch.setattr("greater_fast.search.optimizer.score", fail)
    run = tmp_path / "run"
    done = command("optimize", "--model", model_folder, "--train", data, "--run-dir", run, *limits)
    assert (done.status, done.out) == (1, "")
    assert done.err.splitlines()[-1] == (
        "greater-fast: ValueError: not enough values to unpack; the best prompt until then: "
        f"{read_run(run)['result']['prompt']}; what the run wrote, and this error's traceback, "
        f"are in {run}"
    )
    assert "in fail" in (run / "traceback.txt").read_text()
    assert command("show", run).status == 0


@pytest.mark.parametrize("name", ["steps.jsonl", "result.json"])
@pytest.mark.parametrize("content", [b"{\xff\n", b'{"prompt": 7}\n', b"[1]\n", b'{"step": []}\n'])
def test_damaged_runs_are_shown_as_far_as_they_are_whole(
    command: Any, finished: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    run = tmp_path / "damaged"
    shutil.copytree(finished, run)
    (run / name).write_bytes(content)
    done = command("show", run)
    assert done.status == 1
    (line,) = done.err.splitlines()
    assert line.startswith(f"greater-fast: {run}/{name}")
    assert "model " in done.out
    whole = "prompts on the development rows" if name == "steps.jsonl" else "tried (score"
    assert whole in " ".join(done.out.split())
    assert "unfinished" not in done.out
    done = command("evaluate", "--run", run, "--data", ROOT / "README.md")
    assert done.status == 2


@pytest.mark.parametrize("module", ["greater_fast.cli.main", "greater_fast.cli.commands"])
def test_interruption_while_modules_are_imported(module: str) -> None:
    done = _interrupted(
        """
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == MODULE:
            assert "torch" not in sys.modules
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

sys.meta_path.insert(0, Interrupting())
""".replace("MODULE", repr(module))
    )
    assert done.returncode == 130
    assert done.stderr == "greater-fast: interrupted at the start\n"


def test_interruption_while_arguments_are_read() -> None:
    done = _interrupted(
        """
import argparse

def parse_args(*_):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)

argparse.ArgumentParser.parse_args = parse_args
"""
    )
    assert done.returncode == 130
    assert done.stderr == "greater-fast: interrupted at the start\n"


def _interrupted(code: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, after some code."""
    start = "from greater_fast.__main__ import main\nsys.exit(main())\n"
    done = subprocess.run(
        [sys.executable, "-c", f"import os, signal, sys, time\n{code}\n{start}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return done


def test_a_second_interruption_while_the_first_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "_show", interrupted)
    monkeypatch.setattr("greater_fast.cli.main._ended", interrupted)
    assert main(["show", "runs/none"]) == 130
    assert capsys.readouterr().err == "greater-fast: interrupted\n"


def test_public_names() -> None:
    assert set(greater_fast.__all__) <= set(dir(greater_fast))
    for name in greater_fast.__all__:
        assert callable(getattr(greater_fast, name))
    assert greater_fast.plan.__module__ == "greater_fast.api"
    with pytest.raises(AttributeError, match="has no attribute 'optimise'"):
        _ = greater_fast.optimise
