import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from greater_fast.cli import main as cli
from greater_fast.report.repeat import commands, not_repeated, resuming
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
    first, _, search = text.partition("&&\ngreater-fast optimize")
    shell(first)
    arguments = shlex.split(search.replace("\\\n", ""))
    assert cli.main(["optimize", *arguments, "--run-dir", "again"]) == 0
    again = tmp_path / "again"
    assert steps_of(again) == steps_of(finished)
    for name in ("rows.jsonl", "examples.jsonl"):
        assert (again / name).read_text() == (finished / name).read_text()


def shell(text: str, **options):
    """What a shell makes of commands; whose search is no more than a word."""
    own = f'python3() {{ {shlex.quote(sys.executable)} "$@"; }}; greater-fast() {{ echo ran; }}\n'
    bash = shutil.which("bash")
    options = {"check": True, "capture_output": True, "text": True, **options}
    return subprocess.run([bash, "-c", own + text], **options)


def test_files_of_the_same_names_stay_as_they_are(finished, tmp_path, monkeypatch):
    """Those in the working folder; and where the commands ran before, nothing runs at all."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "dev", "test"):
        Path(f"{split}.jsonl").write_text("the user's own")
    text = commands(read_run_view(finished, 0))
    assert shell(text).stdout == "ran\n"
    assert {Path(f"{split}.jsonl").read_text() for split in ("train", "dev", "test")} == {
        "the user's own"
    }
    rows = tmp_path / "finished-rows" / "train.jsonl"
    rows.write_text("changed since")
    again = shell(text, check=False)
    assert (again.stdout, "FileExistsError" in again.stderr) == ("", True)
    assert rows.read_text() == "changed since"


def test_the_run_is_found_from_any_folder(tmp_path, monkeypatch):
    """Where the report was written of a run by a relative name, of any letters."""
    write_run(tmp_path / "-ein Lauf'\U0001d518")
    monkeypatch.chdir(tmp_path)
    text = commands(read_run_view(Path("-ein Lauf'\U0001d518"), 0))
    (tmp_path / "elsewhere").mkdir()
    shell(text, cwd=tmp_path / "elsewhere")
    words = shlex.split(text.replace("\\\n", ""))
    for split in ("train", "dev", "test"):
        name = words[words.index(f"--{split}") + 1]
        lines = (tmp_path / "elsewhere" / name).read_text().splitlines()
        assert len(lines) >= 4
        golds = {tuple(json.loads(line)["answer"]) for line in lines}
        assert (golds == {("1.0",)}) == (split == "train")  # as the data has them


def test_commands_are_whole_or_not_there(tmp_path):
    run = write_run(tmp_path / "run")
    change(run / "run.json", prompt="long " * 5000)
    assert commands(read_run_view(run, 0)) is None


def test_what_cannot_be_seen_is_typed_as_numbers(tmp_path):
    """A shell reads the prompt that the run had, though the page shows none of its odd letters."""
    prompt = "it's\u2028a \x1b[2J\\x41 \u202eend\n\xa0é\U0001d518"
    run = write_run(tmp_path / "run")
    change(run / "run.json", prompt=prompt)
    text = commands(read_run_view(run, 0))
    assert text.replace("\n", "").isprintable()
    search = text.partition("&&\ngreater-fast")[2]
    said = shell(f"printf '%s\\n' {search}", encoding="utf-8").stdout
    assert f"--prompt={prompt}\n" in said


def test_functions_are_named_that_no_command_gives_again(tmp_path):
    run = write_run(tmp_path / "run", metric="numeric")
    config = json.loads((run / "run.json").read_text())["config"]
    change(run / "run.json", config={**config, "metric": "numeric"}, loss=None)
    assert not_repeated(read_run_view(run, 0)) == []
    assert resuming(read_run_view(run, 0)) == f"greater-fast resume {run}"
    own = {"metric": "near", "loss": "my_loss", "judge": "mine", "on_step": "stops"}
    change(run / "run.json", config=config, **own)
    assert not_repeated(read_run_view(run, 0)) == [
        "the function near as metric",
        "the function my_loss as loss",
        "the function mine as judge",
        "the function stops as on_step",
    ]
    call = f"greater_fast.resume({str(run)!r}, metric=..., loss=..., judge=..., on_step=...)"
    assert resuming(read_run_view(run, 0)) == call


def test_a_run_that_its_minutes_ended_is_given_more(tmp_path):
    run = write_run(tmp_path / "run")
    config = json.loads((run / "run.json").read_text())["config"]
    change(run / "run.json", config={**config, "minutes": 22.5})
    assert resuming(read_run_view(run, 0)) == f"greater-fast resume {run}"
    change(run / "result.json", stopped="out of time")
    assert resuming(read_run_view(run, 0)) == f"greater-fast resume {run} --minutes=45"


def test_ranks_that_share_a_model_are_started_together(tmp_path):
    run = write_run(tmp_path / "run")
    config = json.loads((run / "run.json").read_text())["config"]
    change(run / "run.json", config={**config, "tensor_parallel": True}, num_ranks=4)
    view, start = read_run_view(run, 0), "torchrun --nproc-per-node=4 -m greater_fast"
    assert resuming(view) == f"{start} resume {run}"
    assert f"{start} optimize --model" in commands(view)


def test_models_are_named_where_they_lie_and_loaded_ones_are_told(tmp_path):
    run = write_run(tmp_path / "run")
    change(run / "run.json", model=["./a", "Llama"], source=["/models/a", None])
    view = read_run_view(run, 0)
    words = shlex.split(commands(view).replace("\\\n", ""))
    at = words.index("--model")
    assert words[at + 1 : at + 3] == ["/models/a", "Llama"]
    assert not_repeated(view) == ["the loaded model Llama"]
    assert resuming(view) == f"greater_fast.resume({str(run)!r}, model=...)"


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
