"""What a run may write, where, with whose rights; what it may show; what it must never keep."""

import json
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from greater_fast.cli import main as cli
from greater_fast.runs.directory import read_run
from tests.tiny import boolean_rows

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")

SECRETS = {
    "HF_TOKEN": "hf_0123456789abcdefghij",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "OPENAI_API_KEY": "sk-0123456789abcdefghij",
    "A_PASSWORD": "correct-horse-battery",
}
HOMES = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR")
# The command line, with what it writes and renames told at its end: what, and with which rights.
WATCHED = """
import json, os, sys
written, renamed = set(), {}

def watch(event, given):
    if event == "open" and isinstance(given[0], str) and given[2] & (os.O_WRONLY | os.O_RDWR):
        written.add(os.path.abspath(given[0]))
    elif event == "os.mkdir":
        written.add(os.path.abspath(given[0]))
    elif event == "os.rename":
        renamed[os.path.abspath(given[0])] = os.stat(given[0]).st_mode & 0o777

sys.addaudithook(watch)
from greater_fast.__main__ import main
status = main()
print(json.dumps([sorted(written), renamed]))
sys.exit(status)
"""


class Watched(NamedTuple):
    run: Path
    written: list[str]
    renamed: dict[str, int]
    shown: str


@pytest.fixture(scope="module", params=[0o077, 0o022], ids="umask-{:03o}".format)
def watched(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    model_folder: Path,
    settings: dict[str, Any],
) -> Watched:
    """A run in a process of its own, whose every file is seen, in an environment with secrets."""
    place = tmp_path_factory.mktemp("watched")
    rows = [{"question": question, "answer": answer} for question, answer in boolean_rows(12)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    limits = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    arguments = ["--model", model_folder, "--train", place / "rows.jsonl", *limits]
    arguments += ["--run-dir", place / "run", "--log", "tensorboard", "--debug"]
    homes = {name: str(place / name) for name in HOMES}
    for folder in homes.values():
        Path(folder).mkdir()
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, "optimize", *map(str, arguments)],
        cwd=place,
        env={**os.environ, **homes, **SECRETS, "PYTHONDONTWRITEBYTECODE": "1"}
        | {"PYTHONPATH": os.pathsep.join(sys.path)},
        umask=request.param,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written, renamed = json.loads(done.stdout.splitlines()[-1])
    assert read_run(place / "run")["result"]
    check_rights(place / "run", renamed, request.param)
    return Watched(place / "run", written, renamed, done.stdout + done.stderr)


def check_rights(run: Path, renamed: dict[str, int], umask: int) -> None:
    """Everything has the rights that the umask leaves, the files that were renamed included."""
    for path in (run, *run.rglob("*")):
        most = 0o777 if path.is_dir() else 0o666
        assert path.stat().st_mode & 0o777 == most & ~umask, path
    ours = {path: mode for path, mode in renamed.items() if Path(path).is_relative_to(run)}
    assert any(path.endswith(".state.json") for path in ours)
    assert set(ours.values()) == {0o666 & ~umask}


def test_nothing_is_written_outside_of_the_run_directory(watched: Watched) -> None:
    inside = [path for path in watched.written if Path(path).is_relative_to(watched.run)]
    assert str(watched.run / "result.json") in {*inside, *map(str, watched.run.iterdir())}
    assert len(inside) > 5
    outside = {path for path in watched.written if not path.startswith(("/dev/", "/proc/"))}
    outside -= set(inside)
    place = watched.run.parent
    # torch makes a folder; Python tries whether a folder for temporary files is one, and cleans up
    assert len(outside - {str(place / "TORCHINDUCTOR_CACHE_DIR")}) <= 1
    assert all(Path(path).parent in (place, place / "TMPDIR") for path in outside)
    assert not any(path for home in HOMES for path in (place / home).iterdir())


def test_no_secret_of_the_environment_is_kept_or_shown(watched: Watched) -> None:
    kept = [path.read_bytes() for path in watched.run.rglob("*") if path.is_file()]
    for secret in SECRETS.values():
        assert secret not in watched.shown
        assert not any(secret.encode() in content for content in kept)
    names = json.loads((watched.run / "run.json").read_text())
    assert not {name for name in names if "environ" in name or "command" in name}


WILD = "\x1b]0;owned\x07 \x1b[2J\x9b31m\u202eevil\u2066\r\b\x7f\ufeff\u2028"
HARMLESS = "\n\t\u200c\u200d\xa0\u202f\u3000"


def steering(text: str) -> set[str]:
    """Characters that would move a cursor, or the order of letters."""
    kinds = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    return {c for c in text if unicodedata.category(c) in kinds and c not in HARMLESS}


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> dict[str, Path]:
    """Files whose names, columns and rows would all steer a terminal."""
    place = tmp_path_factory.mktemp("wild") / f"a {WILD} b"
    place.mkdir()
    shutil.copytree(model_folder, place / f"model {WILD}")
    rows = [
        {"question": f"{q} {WILD}", "answer": a, f"column {WILD}": WILD, "context": WILD}
        for q, a in boolean_rows(12)
    ]
    (place / f"rows {WILD}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = [{**row, "question": f"More: {row['question']}"} for row in rows]
    (place / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in more))
    return {
        "model": place / f"model {WILD}",
        "rows": place / f"rows {WILD}.jsonl",
        "more": place / "more.jsonl",
        "run": place / f"run {WILD}",
    }


def test_no_command_steers_a_terminal(
    wild: dict[str, Path], settings: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """Names of folders, files and columns, questions, prompts, and what the model writes."""
    limits = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    given = ["--model", str(wild["model"]), "--prompt", f"Think {WILD} well."]
    search = [*given, "--train", str(wild["rows"]), *limits, "--system-prompt", WILD]
    run, data = str(wild["run"]), ["--data", str(wild["more"])]
    commands = [
        (0, ["optimize", *search, "--run-dir", run]),
        (2, ["optimize", *search, "--run-dir", run]),  # it holds a run now
        (0, ["show", run]),
        (0, ["show", run, "--json"]),
        (0, ["plan", *search]),
        (0, ["evaluate", "--run", run, *data]),
        (0, ["evaluate", "--run", run, *data, "--json"]),
        (2, ["evaluate", *given, "--data", f"nowhere {WILD}"]),
        (2, ["evaluate", "--run", f"nowhere {WILD}", *data]),
        (2, ["optimize", *search, "--columns", f"question={WILD},answer=x"]),
        (2, ["optimize", *search, "--template", f"{{{WILD}}}"]),
        *((0, ["export", run, "--to", to]) for to in ("text", "chat-json", "vllm")),
    ]
    for status, arguments in commands:
        assert (arguments[0], cli.main(arguments)) == (arguments[0], status)
        out, err = capfd.readouterr()
        assert out or err
        assert steering(out + err) == set(), arguments[0]
