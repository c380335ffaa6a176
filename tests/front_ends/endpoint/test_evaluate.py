"""An evaluation on a served model as a whole: settings, tokenizer, command, example, benchmark."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence.served import compared
from greater_fast.cli import main as cli
from greater_fast.model.lm import LM
from greater_fast.runs.result import Report
from tests.cases import examples, tiny_lm
from tests.front_ends.endpoint.asking import CONFIG, EXTRACTOR, ROOT, Rows, measured, server
from tests.front_ends.served import Served
from tests.tiny import PROMPT

pytestmark = pytest.mark.front_ends


def test_settings_of_our_engine_are_without_effect(served: Served) -> None:
    report = measured(served, examples(1), config={**CONFIG, "batch_size": 3, "steps": 7})
    assert "steps: without effect on an evaluation" in report.notes
    assert "batch_size: without effect on a served model" in report.notes
    with pytest.raises(ValueError, match=r"sampling_temperature: got 0.7, expected 0"):
        measured(served, examples(1), config={**CONFIG, "sampling_temperature": 0.7})


def test_a_tokenizer_is_read_without_its_weights(
    served: Served, model_folder: Path, tmp_path: Path, right_rows: Rows, here: Report
) -> None:
    for file in model_folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    report = measured(served, right_rows, tokenizer=str(tmp_path))
    assert report.evaluation == here.evaluation


def test_another_tokenizer_is_refused(served: Served) -> None:
    """Its ids would mean other words to the server."""
    other = tiny_lm(kind="sentencepiece")
    with pytest.raises(ValueError, match="the server's chat template makes"):
        measured(served, examples(1), tokenizer=other)


def command(*words: str) -> int:
    return cli.main(["evaluate", *words])


@pytest.fixture
def data(tmp_path: Path, right_rows: Rows) -> str:
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in right_rows[:4]))
    return str(path)


def test_the_command_takes_a_runs_prompt(
    served: Served, finished_run: Path, data: str, tmp_path: Path, capsys: Any
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for file in finished_run.iterdir():
        (run / file.name).write_bytes(file.read_bytes())
    shared = ["--run", str(run), "--data", data, "--json"]
    assert command(*shared) == 0
    own = json.loads(capsys.readouterr().out)
    asked = [*shared, "--endpoint", served.url, "--model", "tiny", "--num-concurrent", "2"]
    assert command(*asked) == 0
    report = json.loads(capsys.readouterr().out)
    assert {**report, "notes": []} == {**own, "notes": []}
    rows = (run / "served.jsonl").read_text().splitlines()
    assert len(rows) == own["num_rows"] * (2 if own["against"] else 1)
    served.asked.clear()
    assert command(*asked) == 0
    assert served.completions() == []
    assert cli.main(["show", str(run)]) == 0


def test_the_command_asks_by_chat(served: Served, data: str, capsys: Any) -> None:
    asked = ["--endpoint", served.url, "--model", "tiny", "--data", data, "--prompt", PROMPT]
    settings = ["--max-new-tokens", "6", "--extractor", EXTRACTOR]
    assert command(*asked, *settings, "--chat", "--timeout", "30") == 0
    assert "not the same layout" in capsys.readouterr().out


def test_the_command_asks_as_often_as_it_is_told_to(
    served: Served, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--endpoint", served.url, "--model", "tiny", "--data", data, "--prompt", PROMPT]
    settings = ["--extractor", EXTRACTOR, "--chat", "--num-concurrent", "1", "--num-retries", "1"]
    served.fault = lambda handler, *_: handler.send(503, {}) or True
    assert command(*asked, *settings) == 1
    told = capsys.readouterr().err
    assert "(2 tries at " in told
    assert told.count("asked again in ") == 1
    assert len(served.asked) == 2


def test_the_example_runs(model_folder: Path, tmp_path: Path, capsys: Any) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "served_model.py"))
    example["main"](str(model_folder), num_rows=4, max_new_tokens=6)
    told = capsys.readouterr().out
    assert "the same answers" in told


def test_the_benchmark_holds_rows_against_rows(served: Served, lm: LM) -> None:
    found = compared(server(served), lm, examples(3), PROMPT, 6)
    assert (found.num_rows, found.same_reasoning, found.same_answer) == (3, 3, 3)
    assert found.only_served == found.only_here == 0
    assert found.served_seconds > 0 < found.here_seconds
    assert found.describe().startswith("3 rows on ")
    assert "the same reasoning on 3, the same answer on 3" in found.describe()
