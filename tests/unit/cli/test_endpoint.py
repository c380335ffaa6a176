"""Options of `evaluate` for a served model: refused before any server is asked."""

import json
from pathlib import Path

import pytest

from greater_fast.cli import main as cli
from tests.tiny import PROMPT, boolean_rows

NOBODY = "http://127.0.0.1:9/v1"  # discard


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "test.jsonl"
    rows = [{"question": question, "answer": answer} for question, answer in boolean_rows(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "m", "--chat"], "--chat: without effect without --endpoint"),
        (["--model", "m", "--num-concurrent", "2", "--tokenizer", "t"], "--tokenizer and --num-c"),
        (["--endpoint", NOBODY], "--model: expected the one name"),
        (["--endpoint", NOBODY, "--model", "a", "b"], "--model: expected the one name"),
        (["--endpoint", NOBODY, "--model", "a"], "--tokenizer missing: "),
        (["--endpoint", "127.0.0.1", "--model", "a"], "endpoint: got '127.0.0.1'"),
        (
            ["--endpoint", NOBODY, "--model", "a", "--chat", "--tokenizer", "t"],
            "--chat keeps no layout",
        ),
    ],
)
def test_options_that_do_not_go_together(
    data: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", "--data", data, "--prompt", PROMPT, *words]) == 2
    assert message in capsys.readouterr().err


def test_a_run_of_several_models_has_no_layout_of_its_own(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    values = {"config": {}, "extractor": "The answer is", "model": ["one", "two"], "prompt": PROMPT}
    (run / "run.json").write_text(json.dumps(values))
    (run / "examples.jsonl").write_text('{"question": "Which?", "split": "train"}\n')
    asked = ["evaluate", "--run", str(run), "--data", data, "--endpoint", NOBODY, "--model", "m"]
    assert cli.main(asked) == 2
    assert "several models: name one of one, two (--tokenizer)" in capsys.readouterr().err
    assert not (run / "served.jsonl").exists()
