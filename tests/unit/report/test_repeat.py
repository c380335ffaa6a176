import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from greater_fast.cli import main as cli
from greater_fast.report.repeat import commands
from greater_fast.report.run_view import read_run_view
from greater_fast.search.nouns import WORK_FIELDS
from tests.unit.report.made_up import change, write_run

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")


def steps_of(run: Path):
    lines = (run / "steps.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if key not in WORK_FIELDS}
        for line in lines
    ]


def test_the_commands_repeat_the_run(finished, tmp_path, monkeypatch):
    """In another folder, from the run's directory alone: the same steps, rows and prompts."""
    monkeypatch.chdir(tmp_path)
    text = commands(read_run_view(finished, 0))
    first, _, search = text.partition("greater-fast optimize")
    python = f"{shlex.quote(sys.executable)} -c {first.removeprefix('python3 -c ')}"
    subprocess.run(python, shell=True, check=True, executable=shutil.which("bash"))
    arguments = shlex.split(search.replace("\\\n", ""))
    assert cli.main(["optimize", *arguments, "--run-dir", "again"]) == 0
    again = tmp_path / "again"
    assert steps_of(again) == steps_of(finished)
    for name in ("rows.jsonl", "examples.jsonl"):
        assert (again / name).read_text() == (finished / name).read_text()


def test_an_odd_text_stays_one_argument(tmp_path):
    odd = '--it\'s "odd" $HOME `x` \\ {answer}'
    run = write_run(tmp_path / "it's; a run", text=lambda own: own + odd)
    change(run / "run.json", model=["a b", "c"])
    text = commands(read_run_view(run, 0))
    words = shlex.split(text.replace("\\\n", ""))
    assert f"--extractor=The answer is {{answer}}.{odd}" in words
    at = words.index("--model")
    assert words[at + 1 : at + 3] == ["a b", "c"]


def test_settings_are_options_as_they_are_typed(tmp_path):
    run = write_run(tmp_path / "run")
    config = json.loads((run / "run.json").read_text())["config"]
    config |= {"stop_unchanged": False, "tensor_parallel": True, "race": 0.1, "template": "{x}"}
    change(run / "run.json", config={**config, "chat_template_kwargs": {"think": False}, "new": 1})
    words = shlex.split(commands(read_run_view(run, 0)).replace("\\\n", ""))
    options = {word for word in words if word.startswith("--")}
    assert {"--no-stop-unchanged", "--tensor-parallel", "--race=0.1"} < options
    assert '--chat-template-kwargs={"think": false}' in options
    assert not any(option.startswith(("--template=", "--new")) for option in options)


def test_a_run_that_does_not_say_enough_has_no_command(tmp_path):
    for name in ("model", "prompt", "extractor"):
        run = write_run(tmp_path / name)
        change(run / "run.json", **{name: ...})
        assert commands(read_run_view(run, 0)) is None
