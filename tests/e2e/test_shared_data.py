"""The data files of the paper's tasks, as they are, with a real model."""

import json
from pathlib import Path
from typing import Any

import pytest

from greater_fast import Config, evaluate, load_examples, optimize
from greater_fast.cli.main import main
from greater_fast.examples.extractor import derive_extractor
from greater_fast.model.lm import LM
from greater_fast.model.smollm2 import SMOLLM2
from greater_fast.runs.directory import read_run
from tests.conftest import shared_data

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")
# Each file's number of rows, its first answer, and the kind of its answers.
FILES = {
    "BBH/boolean_expressions.json": (250, "False", "one of False, True"),
    "GSM8K/test_first400.jsonl": (400, "18", "numbers"),
    "FOLIO/dev.csv": (100, "A", "choice letters A, B, C"),
    "GreaterPrompt/boolean_expressions.jsonl": (5, "False", "one of False, True"),
}
PROMPT = "Think step by step."
SETTINGS: dict[str, Any] = {
    "steps": 1,
    "top_k": 40,
    "num_train": 2,
    "num_dev": 1,
    "num_finalists": 1,
    "num_proposal_examples": 2,
    "num_draws": 1,
    "shortlist_size": 1,
    "max_new_tokens": 2,
    "max_prompt_tokens": 40,
}
OPTIONS = [str(p) for n, v in SETTINGS.items() for p in (f"--{n.replace('_', '-')}", v)]


@pytest.mark.parametrize("name", FILES)
def test_the_file_loads_as_it_is(name: str) -> None:
    num_rows, answer, kind = FILES[name]
    examples = load_examples(shared_data(name))
    assert len(examples) == num_rows
    assert examples[0].answer == answer
    assert derive_extractor([e.answer for e in examples]).origin == f"derived: {kind}"


@pytest.mark.model
@pytest.mark.parametrize("name", FILES)
def test_optimize_and_evaluate(name: str, smollm2: LM, tmp_path: Path) -> None:
    examples = load_examples(shared_data(name))
    short = sorted(examples, key=lambda e: len(e.question))[:3]
    config = Config(**SETTINGS)
    result = optimize(smollm2, short, prompt=PROMPT, config=config, run_dir=tmp_path / "run")
    assert result.stopped == "all steps done"
    (step,) = result.steps
    assert step.candidate_ids
    assert step.objective <= result.baseline.objective
    held = read_run(tmp_path / "run")
    assert held["result"]["prompt"] == result.prompt
    assert {row["question"] for row in held["examples"]} == {e.question for e in short}
    report = evaluate(smollm2, short[:2], prompt=result.prompt, config=config)
    assert [row.gold for row in report.evaluation.rows] == [e.answer for e in short[:2]]


@pytest.mark.model
@pytest.mark.parametrize("name", FILES)
def test_from_the_shell(
    name: str, smollm2: LM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = shared_data(name), tmp_path / "run"
    common = ["--model", SMOLLM2, "--prompt", PROMPT, "--device", "cpu", "--json", *OPTIONS]
    arguments = ["--train", str(path), "--run-dir", str(run), *common, "--steps", "0"]
    assert main(["optimize", *arguments]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == read_run(run)["result"]
    assert result["notes"][0] == f"train: 2 of {FILES[name][0]} rows used"
    if FILES[name][0] > 5:
        return
    assert main(["evaluate", "--data", str(path), *common]) == 0
    assert json.loads(capsys.readouterr().out)["num_rows"] == 5
