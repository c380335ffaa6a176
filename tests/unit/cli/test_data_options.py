"""Templates and columns on the command line, and what is told of columns that were not read."""

import json
from pathlib import Path
from typing import Any

import pytest

from greater_fast import evaluate, optimize
from greater_fast.runs.directory import read_run
from tests.tiny import PROMPT, boolean_rows

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")
UNREAD = "columns not read: source (see template)"


def passages(first: int, last: int) -> list[dict[str, str]]:
    """Rows that differ in their passage alone, and in their answer."""
    return [
        {"question": "What is it?", "passage": passage, "source": f"s{number}", "answer": answer}
        for number, (passage, answer) in enumerate(boolean_rows(last)[first:])
    ]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Twelve rows to search on, six others."""
    paths = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    for path, rows in zip(paths, (passages(0, 12), passages(12, 18)), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


def test_a_run_records_its_template_and_is_evaluated_with_it(
    command: Any, model_folder: Path, files: tuple[Path, Path], limits: list[str], tmp_path: Path
) -> None:
    train, test = files
    run = tmp_path / "run"
    done = command(
        *("optimize", "--model", model_folder, "--train", train, "--prompt", PROMPT, *limits),
        *("--run-dir", run, "--template", r"{passage}\n{question}", "--steps", 0),
    )
    assert done.status == 0
    assert f"train: {UNREAD}\n" in done.out
    written = read_run(run)
    assert written["run"]["config"]["template"] == "{passage}\n{question}"
    assert f"train: {UNREAD}" in written["run"]["notes"]
    asked = {example["question"] for example in written["examples"]}
    assert asked <= {f"{row['passage']}\n{row['question']}" for row in passages(0, 12)}
    assert len(asked) == len(written["examples"]) > 2
    records = tmp_path / "records.jsonl"
    done = command("evaluate", "--run", run, "--data", test, "--records", records)
    assert done.status == 0
    assert f"{UNREAD}\n" in done.out
    questions = {json.loads(line)["question"] for line in records.read_text().splitlines()}
    assert questions == {f"{row['passage']}\n{row['question']}" for row in passages(12, 18)}
    seen = command("evaluate", "--run", run, "--data", train)
    assert "rows left out: the run has searched or chosen on them" in seen.err
    assert "warning" not in seen.err
    other = command("evaluate", "--run", run, "--data", test, "--template", "{passage}")
    assert "the template is not the run's: rows that the run has seen cannot be told" in other.err


def test_without_a_template_known_columns_are_read_and_told(
    model_folder: Path, files: tuple[Path, Path], settings: dict[str, Any], tmp_path: Path
) -> None:
    train, test = files
    settings = {**settings, "steps": 0}
    result = optimize(
        str(model_folder), str(train), prompt=PROMPT, config=settings, run_dir=tmp_path / "run"
    )
    put = "each question is put together as 'Passage: {passage}\\n\\nQuestion: {question}'"
    assert f"train: {put} (see template)" in result.notes
    assert f"train: {UNREAD}" in result.notes
    assert not any("duplicates" in note for note in result.notes)
    report = evaluate(str(model_folder), str(test), prompt=PROMPT, config=settings)
    assert report.notes[:2] == (f"{put} (see template)", UNREAD)
    short = {**settings, "template": "{question}"}
    report = evaluate(str(model_folder), passages(12, 18), prompt=PROMPT, config=short)
    assert {row.question for row in report.evaluation.rows} == {"What is it?"}


def test_each_file_may_have_columns_of_its_own(
    command: Any, model_folder: Path, limits: list[str], tmp_path: Path
) -> None:
    names = {"train": ("Frage", "Antwort"), "dev": ("vraag", "antwoord"), "test": ("q", "a")}
    bounds = {"train": (0, 8), "dev": (8, 13), "test": (13, 18)}
    for name, (question, answer) in names.items():
        first, last = bounds[name]
        rows = [{question: text, answer: gold} for text, gold in boolean_rows(last)[first:]]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    run = tmp_path / "run"
    given = [part for name in names for part in (f"--{name}", tmp_path / f"{name}.json")]
    common = ("--model", model_folder, *given, "--prompt", PROMPT, *limits)
    columns = (
        "--columns",
        "question=Frage,answer=Antwort",
        "--test-columns",
        "question=q,answer=a",
    )
    refused = command("optimize", *common, *columns, "--run-dir", run)
    assert refused.status == 2
    assert "dev.json: got the columns vraag, antwoord; expected Frage/Antwort" in refused.err
    assert not run.exists()
    columns = (*columns, "--dev-columns", "question=vraag,answer=antwoord")
    assert command("optimize", *common, *columns, "--run-dir", run, "--steps", 0).status == 0
    splits = [example["split"] for example in read_run(run)["examples"]]
    assert splits.count("test") == 5
    assert {*splits} == {"train", "dev", "test"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--dev-columns", "question=a,answer=b"), "--dev-columns: --dev is not given"),
        (("--test-columns", "nonsense"), "--test-columns: --test is not given"),
        (("--dev", "FILE", "--dev-columns", "nonsense"), "--dev-columns: got 'nonsense'"),
    ],
)
def test_columns_of_no_file_are_refused(
    command: Any, files: tuple[Path, Path], tmp_path: Path, given: tuple[str, ...], message: str
) -> None:
    given = tuple(str(files[1]) if part == "FILE" else part for part in given)
    done = command("optimize", "--model", tmp_path / "absent", "--train", files[0], *given)
    assert (done.status, done.out) == (2, "")
    assert message in done.err
    if "FILE" not in given and "--dev" not in given:
        columns = ("--columns", "question=a,answer=b")
        done = command(
            "plan", "--model", tmp_path / "absent", "--task", "object_counting", *columns
        )
        assert done.status == 2
        assert "--columns: they are of rows of a file, and none is named" in done.err


def test_a_plan_tells_what_was_not_read(
    command: Any, model_folder: Path, files: tuple[Path, Path], limits: list[str]
) -> None:
    done = command(
        *("plan", "--model", model_folder, "--data", files[0], "--gpu-memory", "24GiB", *limits),
    )
    assert (done.status, done.err) == (0, "")
    assert UNREAD in done.out


def test_templates_that_cannot_be_filled_are_refused_before_the_model_is_read(
    command: Any, files: tuple[Path, Path], tmp_path: Path
) -> None:
    common = ("--model", tmp_path / "absent", "--run-dir", tmp_path / "run")
    done = command("optimize", *common, "--train", files[0], "--template", "{pasage}")
    assert (done.status, done.out) == (2, "")
    assert "greater-fast: template: got {pasage}, where " in done.err
    done = command("optimize", *common, "--task", "object_counting", "--template", "{question}")
    assert (done.status, done.out) == (2, "")
    assert "--template is for rows of a file: leave it out with --task" in done.err
