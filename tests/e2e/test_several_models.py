"""Whole runs for several models at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greater_fast import evaluate, optimize, resume
from greater_fast.cli.main import main
from greater_fast.model.lm import LM
from greater_fast.runs.directory import read_run
from greater_fast.runs.models.mean_evaluation import MeanComparison, MeanEvaluation
from greater_fast.runs.result import Result
from tests.cases import tiny_lm
from tests.tiny import PROMPT
from tests.unit.model.test_lm_gguf import write

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model of the same tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny-other"
    tiny_lm("llama", seed=1).model.save_pretrained(folder)
    tiny_lm("llama", seed=1).tokenizer.save_pretrained(folder)
    return folder


def figures(result: Result) -> list[Any]:
    return [
        (p.prompt_ids, p.objective, p.train_error_rate, p.dev_accuracy) for p in result.finalists
    ]


@pytest.mark.parametrize("engine", ["auto", "generate"])
def test_a_model_beside_itself_is_searched_as_alone(
    lm: LM, labelled_rows: Callable[..., Any], settings: dict[str, Any], tmp_path: Path, engine: str
) -> None:
    rows, config = labelled_rows()[:12], {**settings, "engine": engine, "steps": 3}
    alone = optimize(lm, rows, config=config, run_dir=tmp_path / "one", progress=False)
    twice = optimize([lm, lm], rows, config=config, run_dir=tmp_path / "two", progress=False)
    assert figures(twice) == figures(alone)
    assert (twice.prompt, twice.stopped) == (alone.prompt, alone.stopped)
    assert [s.candidate_ids for s in twice.steps] == [s.candidate_ids for s in alone.steps]
    dev = twice.best.dev
    assert isinstance(dev, MeanEvaluation)
    assert [own.rows for own in dev.by_model.values()] == 2 * [
        alone.best.dev and alone.best.dev.rows
    ]


def test_a_run_for_two_models_from_start_to_evaluation(
    model_folder: Path,
    other_folder: Path,
    rows: list[dict[str, str]],
    settings: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, test = tmp_path / "rows.jsonl", tmp_path / "test.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows[:8]))
    test.write_text("".join(json.dumps(row) + "\n" for row in rows[8:]))
    run = tmp_path / "run"
    models = ["--model", str(model_folder), "--model", str(other_folder)]
    limits = [
        s for name, value in settings.items() for s in (f"--{name.replace('_', '-')}", str(value))
    ]
    begun = [*models, "--train", str(data), "--test", str(test), "--prompt", PROMPT, *limits]
    assert main(["optimize", *begun, "--run-dir", str(run)]) == 0
    shown = capsys.readouterr().out
    names = [str(model_folder), str(other_folder)]
    for name in names:
        assert shown.count(f"    {name}: ") >= 3  # train, development and test rows
    kept = read_run(run)
    assert kept["run"]["model"] == names
    assert not kept["damage"]
    lines = [json.loads(line) for line in (run / "rows.jsonl").read_text().splitlines()]
    assert {line["model"] for line in lines} == set(names)
    best = kept["result"]["best"]["dev"]
    each = [best["by_model"][name]["accuracy"] for name in names]
    assert best["accuracy"] == pytest.approx(sum(each) / 2)
    assert best["num_rows"] == settings["num_dev"]

    assert main(["show", str(run)]) == 0
    assert f"models {names[0]} and {names[1]} on cpu in float32, started" in capsys.readouterr().out

    assert main(["plan", "--model", *names, *begun[4:], "--json"]) == 0
    memory = json.loads(capsys.readouterr().out)
    assert len(memory["pools"]) == 2
    prompts = 1 + settings["steps"] * 3
    assert memory["work"]["searched_rows"] == 2 * prompts * settings["num_train"]

    records = tmp_path / "records.jsonl"
    asked = ["--run", str(run), "--data", str(test), "--against", "Think.", "--json"]
    assert main(["evaluate", *asked, "--records", str(records)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["by_model"]) == list(report["against"]["by_model"]) == names
    assert list(report["comparison"]["by_model"]) == names
    assert len(records.read_text().splitlines()) == 2 * 2 * 4
    assert main(["evaluate", *asked[:-1]]) == 0
    shown = capsys.readouterr().out
    for name in names:
        assert shown.count(f"    {name}: ") == 2  # of each prompt
    assert "sign flips p = " in shown
    only = ["--model", names[1], "--data", str(test), "--prompt", report["prompt"], *limits[2:6]]
    assert main(["evaluate", *only, "--extractor", report["extractor"], "--json"]) == 0
    assert (
        json.loads(capsys.readouterr().out)["accuracy"] == report["by_model"][names[1]]["accuracy"]
    )


def test_the_same_seed_gives_the_same_run_for_three_models(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    models = [lm, tiny_lm("qwen2"), tiny_lm("llama", seed=1)]
    given = {**settings, "objective": "loss", "candidates": "both"}
    folders = [tmp_path / "first", tmp_path / "second"]
    results = [optimize(models, rows, config=given, run_dir=f, progress=False) for f in folders]
    assert results[0].finalists == results[1].finalists
    for name in ("rows.jsonl", "state.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    state = json.loads((folders[0] / "state.json").read_text())
    assert len(state["incumbent_rollouts"]) == 3 * settings["num_train"]


def test_two_models_are_compared_on_average_and_each(
    lm: LM, labelled_rows: Callable[..., Any], settings: dict[str, Any]
) -> None:
    """The first is right on all rows with its prompt; the second on hardly any."""
    limits = {k: settings[k] for k in ("max_new_tokens", "max_prompt_tokens")}
    config = {**limits, "extractor": "The answer is"}
    rows = labelled_rows()[:8]
    report = evaluate(
        [lm, tiny_lm("qwen2")], rows, prompt=PROMPT, against="Think.", config=config, progress=False
    )
    found, compared = report.evaluation, report.comparison
    assert isinstance(found, MeanEvaluation)
    assert isinstance(compared, MeanComparison)
    first, second = (own.accuracy for own in found.by_model.values())
    assert first == 1
    assert second < 1
    assert report.accuracy == pytest.approx((first + second) / 2)
    assert compared.difference == pytest.approx(
        sum(own.difference for own in compared.by_model.values()) / 2
    )


def test_a_gguf_file_beside_the_folder_that_it_was_made_of(
    model_folder: Path, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    models = [str(write(tmp_path / "tiny.gguf")), str(model_folder)]
    config = {**settings, "device": "cpu"}
    both = optimize(models, rows, config=config, run_dir=tmp_path / "both", progress=False)
    alone = optimize(models[1], rows, config=config, run_dir=tmp_path / "one", progress=False)
    assert both.prompt == alone.prompt
    assert [s.prompt_ids for s in both.steps] == [s.prompt_ids for s in alone.steps]
    assert isinstance(both.best.dev, MeanEvaluation)
    assert list(both.best.dev.by_model) == models


def test_what_cannot_be_evaluated_together_is_refused(lm: LM, rows: list[Any]) -> None:
    with pytest.raises(ValueError, match="have different vocabularies"):
        evaluate([lm, tiny_lm("llama", "sentencepiece")], rows, prompt=PROMPT)
    with pytest.raises(ValueError, match="got an empty list"):
        evaluate([], rows, prompt=PROMPT)


def test_rows_are_known_by_the_models_as_the_run_was_begun(
    model_folder: Path,
    other_folder: Path,
    rows: list[dict[str, str]],
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Begun with paths that only hold where it was begun, gone on with from elsewhere."""
    for name, folder in (("a", model_folder), ("b", other_folder)):
        (tmp_path / name).symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    config = {**settings, "steps": 1}
    first = optimize(["a", "b"], rows[:8], config=config, run_dir="run", progress=False)
    lines = (tmp_path / "run" / "rows.jsonl").read_text().splitlines()
    assert {json.loads(line)["model"] for line in lines} == {"a", "b"}
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for _ in range(2):
        again = resume(tmp_path / "run", progress=False)
        assert figures(again) == figures(first)
        assert isinstance(again.best.dev, MeanEvaluation)
        assert list(again.best.dev.by_model) == ["a", "b"]
        assert (tmp_path / "run" / "rows.jsonl").read_text().splitlines() == lines
    resume(tmp_path / "run", steps=2, progress=False)
    lines = (tmp_path / "run" / "rows.jsonl").read_text().splitlines()
    assert {json.loads(line)["model"] for line in lines} == {"a", "b"}
