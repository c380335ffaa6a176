"""`greater-fast export`: where it goes, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from greater_fast.export import FORMATS, export_run
from greater_fast.runs.directory import read_run

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")


@pytest.mark.parametrize("to", sorted(FORMATS))
def test_it_is_printed_or_written(command: Any, finished: Path, tmp_path: Path, to: str) -> None:
    done = command("export", finished, "--to", to)
    assert (done.status, done.err) == (0, "")
    assert done.out == export_run(finished, to)
    assert json.dumps(read_run(finished)["result"]["prompt"])[1:-1] in done.out
    file = tmp_path / "exported"
    written = command("export", finished, "--to", to, "-o", file)
    assert (written.status, written.out) == (0, "")
    assert file.read_text() == done.out
    again = command("export", finished, "--to", to, "-o", file)
    assert again.status == 2
    assert "exists already" in again.err
    nowhere = command("export", finished, "--to", to, "-o", tmp_path / "missing" / "file")
    assert nowhere.status == 2
    assert f"-o: there is no folder {tmp_path / 'missing'}: make it" in nowhere.err
    assert file.read_text() == done.out


def test_a_run_without_a_result_gives_its_last_prompt(command: Any, unfinished: Path) -> None:
    done = command("export", unfinished, "--to", "chat-json")
    assert done.status == 0
    (turn,) = done.values["messages"]
    assert turn["content"] == "{question} " + read_run(unfinished)["steps"][-1]["prompt"]
    assert "the run has no result, or goes on: this is its last prompt" in done.values["notes"][-1]


def test_columns_of_no_rows_are_refused(command: Any, finished: Path) -> None:
    done = command("export", finished, "--to", "text", "--columns", "question=a,answer=b")
    assert done.status == 2
    assert "--columns are those of --data, which is not given" in done.err


def test_rows_that_are_lost_are_told(command: Any, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "examples.jsonl").unlink()
    done = command("export", run, "--to", "chat-json")
    assert done.status == 0
    _, note = done.values["notes"]
    assert note == "no rows were found to hold the rendering against"


def test_rows_that_name_special_tokens_are_told(
    command: Any, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    with (run / "examples.jsonl").open("a") as file:
        file.write('{"split": "test", "question": "Is <|eot_id|> it?", "answer": "True"}\n')
    change(run, layout=None)  # that of the rows without it
    worth, note = command("export", run, "--to", "chat-json").values["notes"]
    assert worth == f"of the prompt: {json.loads((run / 'result.json').read_text())['summary']}"
    assert note.startswith("1 of 9 rows name special tokens")


def change(run: Path, **values: Any) -> None:
    file = run / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": ["a", "b"]}, "the run is of several models: name one of a, b"),
        ({"source": ["LlamaForCausalLM"]}, "another name, give that (--model)"),
        ({"source": [None]}, "the run was begun with a loaded model"),
        ({"layout": "of other rows"}, "makes other token ids of the run's rows"),
        ({"extractor": None}, "damaged"),
        ({"config": {"template_date": 1}}, "template_date"),
    ],
)
def test_runs_that_cannot_be_exported(
    command: Any, finished: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    change(run, **values)
    done = command("export", run, "--to", "text")
    assert (done.status, done.out) == (2, "")
    assert message in done.err


def test_a_model_is_found_by_the_name_that_is_given(
    command: Any, finished: Path, model_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    change(run, model=["a", "b"])
    done = command("export", run, "--to", "vllm", "--model", model_folder)
    assert done.status == 0
    assert f"MODEL = {str(model_folder)!r}" in done.out


def test_nothing_in_a_run_can_end_a_line_of_the_script(
    command: Any, finished: Path, model_folder: Path, tmp_path: Path
) -> None:
    """A folder's name, of all things, that would be code."""
    odd = tmp_path / "a\nimport os; raise SystemExit(7) #\x1b[2J"
    shutil.copytree(model_folder, odd)
    for to in ("text", "vllm"):
        done = command("export", finished, "--to", to, "--model", odd)
        assert done.status == 0
        assert "\nimport os" not in done.out
        assert "\x1b" not in done.out


def test_no_run(command: Any, tmp_path: Path) -> None:
    done = command("export", tmp_path, "--to", "text")
    assert done.status == 2
    assert "holds no run" in done.err
