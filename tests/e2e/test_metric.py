"""Searches and evaluations by a metric of one's own, from the call to the files of a run."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from greater_fast import Example, evaluate, optimize, resume
from greater_fast.config import Config
from greater_fast.examples.metrics import METRICS
from greater_fast.model.lm import LM
from greater_fast.runs.directory import read_run
from greater_fast.runs.models.mean_evaluation import MeanEvaluation
from greater_fast.runs.statistics import mean_interval
from greater_fast.runs.timing.pace import Pace
from tests.cases import tiny_lm
from tests.tiny import PROMPT

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")


class Length:
    """How much of forty characters an answer has; counts its calls."""

    __name__ = "length"

    def __init__(self) -> None:
        self.calls: list[tuple[str, Example]] = []

    def __call__(self, predicted: str, row: Example) -> float:
        self.calls.append((predicted, row))
        return min(len(predicted), 40) / 40


def lines(run: Path, name: str) -> list[Any]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def test_a_search_raises_a_metric(
    lm: LM,
    rows: list[Any],
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The metric alone decides: no weight is on fluency."""
    metric, timed = Length(), []
    monkeypatch.setattr(Pace, "add_evaluation", lambda self, split, *_: timed.append(split))
    config = {**settings, "steps": 6, "error_fluency_weight": 0.0}
    result = optimize(
        *(lm, rows[:8]),
        prompt=PROMPT,
        test=rows[8:],
        config=config,
        metric=metric,
        run_dir=tmp_path / "run",
    )
    errors = [result.baseline.train_error_rate, *(step.error_rate for step in result.steps)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]
    assert [step.objective for step in result.steps] == errors[1:]
    assert result.baseline.train is not None
    assert result.baseline.train.accuracy == pytest.approx(1 - errors[0], abs=1e-12)

    written = lines(result.run_dir, "rows.jsonl")
    assert written
    assert all(row["metric"] == min(len(row["predicted"]), 40) / 40 for row in written)
    assert all(row["correct"] is (row["metric"] >= 0.5) for row in written)
    for split, found in (("dev", result.best.dev), ("test", result.best.test)):
        assert found is not None
        own = [r["metric"] for r in written if r["split"] == split and r["prompt"] == result.prompt]
        assert [row.metric for row in found.rows] == own
        assert found.accuracy == pytest.approx(sum(own) / len(own))
        assert found.interval == mean_interval(own)
    assert set(timed) == {"dev", "test"}  # training rows are known, and say nothing of time
    assert "scores" in result.summary
    assert "answers are measured by: length" in result.notes
    run = read_run(result.run_dir)
    assert (run["run"]["metric"], run["run"]["config"]["metric"]) == ("length", None)
    assert run["result"]["best"]["dev"]["metric"] == "length"

    given_up = lines(result.run_dir, "state.json")[0]["given_up"]
    scored = lines(result.run_dir, "state.json")[0]["scored"]
    num_prompts = len({row["prompt"] for row in written if row["split"] == "dev"})
    num_tested = sum(row["split"] == "test" for row in written)
    least = 4 * (len(scored) + num_prompts) + num_tested
    assert least <= len(metric.calls) <= least + 4 * len(given_up)
    by_question = Counter(row.question for _, row in metric.calls)
    trained = {row.question for _, row in metric.calls[:4]}
    assert len(trained) == 4
    assert all(
        by_question[question] in range(len(scored), len(scored) + len(given_up) + 1)
        for question in trained
    )
    assert {row for _, row in metric.calls} <= {
        Example(row["question"], row["answer"], tuple(row["other_answers"]))
        for row in run["examples"]
    }


def test_the_gold_answers_of_a_metric_are_those_of_the_data(
    lm: LM, settings: dict[str, Any], tmp_path: Path
) -> None:
    """The search asks for one form of all, and so does a run that goes on from its files."""
    golds = ["AA", "Aa", "aa", "5.0", "(B)", "aa", '"bb"', "bb", "bb", "Aa"]
    rows = [{"question": f"Which is {n}?", "answer": gold} for n, gold in enumerate(golds)]
    found = Length()
    settings = {**settings, "num_train": 6, "num_dev": 4}
    result = optimize(lm, rows, prompt=PROMPT, config=settings, metric=found, run_dir=tmp_path)
    assert any(note.startswith("answers in one form: ") for note in result.notes)
    again = Length()
    resume(tmp_path, model=lm, metric=again, steps=settings["steps"] + 1)
    given = {name: settings[name] for name in ("max_new_tokens", "max_prompt_tokens")}
    report = evaluate(lm, rows, prompt=PROMPT, config=given, metric=(evaluated := Length()))
    assert any(note.startswith("answers in one form: ") for note in report.notes)
    expected = {row["question"]: row["answer"].replace("(B)", "B") for row in rows}
    for metric in (found, again, evaluated):
        assert metric.calls
        assert all(row.answer == expected[row.question] for _, row in metric.calls)


def test_both_engines_measure_the_same(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    found = [
        optimize(
            lm,
            rows,
            config={**settings, "steps": 1, "engine": engine},
            metric=Length(),
            run_dir=tmp_path / engine,
        )
        for engine in ("paged", "generate")
    ]
    first, second = ((r.prompt, [f.train_error_rate for f in r.finalists]) for r in found)
    assert first == second
    assert found[0].baseline.dev == found[1].baseline.dev


def test_a_name_is_a_setting_or_an_argument(
    lm: LM, rows: list[Any], settings: dict[str, Any]
) -> None:
    """`exact` is what evaluation does anyway, but for its name."""
    given = {name: settings[name] for name in ("max_new_tokens", "max_prompt_tokens")}
    plain = evaluate(lm, rows, prompt=PROMPT, config=given)
    reports = [
        evaluate(lm, rows, prompt=PROMPT, config={**given, "metric": "exact"}),
        evaluate(lm, rows, prompt=PROMPT, config=given, metric="exact"),
        evaluate(lm, rows, prompt=PROMPT, config=given, metric=METRICS["exact"]),
    ]
    for report in reports:
        assert "answers are measured by: exact" in report.notes
        assert (report.accuracy, report.interval) == (plain.accuracy, plain.interval)
        for row, other in zip(report.evaluation.rows, plain.evaluation.rows, strict=True):
            assert row.metric == float(other.correct)
            assert dataclasses.replace(row, metric=None) == other


def test_by_loss_the_search_is_that_without_a_metric(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    """The metric is for the finals."""
    given = {**settings, "objective": "loss"}
    plain = optimize(lm, rows, config=given, run_dir=tmp_path / "plain")
    found = optimize(lm, rows, config=given, metric=Length(), run_dir=tmp_path / "own")
    kept = ("prompt_ids", "objective", "error_rate", "trials", "num_generated_tokens")
    for step, other in zip(found.steps, plain.steps, strict=True):
        assert [getattr(step, name) for name in kept] == [getattr(other, name) for name in kept]
    assert found.baseline.dev is not None
    assert all(row.metric is not None for row in found.baseline.dev.rows)
    assert found.baseline.train is not None
    assert found.baseline.train.metric == "length"


def test_a_bad_value_ends_the_run_with_its_row(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    calls: list[str] = []

    def mine(predicted: str, row: Example) -> float:
        calls.append(predicted)
        return 0.5 if len(calls) < 7 else 50

    with pytest.raises(ValueError, match=r"metric: mine gave 50 for row \d") as caught:
        optimize(lm, rows, config=settings, metric=mine, run_dir=tmp_path / "run")
    assert "expected a number from 0 to 1" in str(caught.value)
    assert len(calls) == 7
    assert any("the best prompt until then" in note for note in caught.value.__notes__)
    assert read_run(tmp_path / "run")["result"]["stopped"].startswith("failed: ValueError")


def test_what_a_metric_raises_goes_to_the_caller(lm: LM, rows: list[Any]) -> None:
    def mine(predicted: str, row: Example) -> float:
        raise KeyError(predicted)

    config = {"max_new_tokens": 4, "max_prompt_tokens": 40}
    with pytest.raises(KeyError) as caught:
        evaluate(lm, rows, prompt=PROMPT, config=config, metric=mine)
    assert any("raised by the metric mine for row " in note for note in caught.value.__notes__)


def test_two_prompts_by_a_metric(lm: LM, rows: list[Any], tmp_path: Path) -> None:
    metric = Length()
    report = evaluate(
        *(lm, rows),
        prompt=PROMPT,
        against="Think about it.",
        config=Config(max_new_tokens=4, max_prompt_tokens=40),
        records=tmp_path / "records.jsonl",
        metric=metric,
    )
    assert report.comparison is not None
    assert report.against is not None
    assert report.comparison.test == "sign flips"
    assert len(metric.calls) == 24
    written = [row["metric"] for row in lines(tmp_path, "records.jsonl")]
    assert written == [row.metric for e in (report.evaluation, report.against) for row in e.rows]


@pytest.mark.parametrize(
    ("given", "settings_metric", "message"),
    [
        ("exactly", None, "metric: got 'exactly', expected one of"),
        (3, None, "metric: got 3, expected a function of the predicted answer and its example"),
        (lambda text: 1.0, None, "metric: got one that takes (text)"),
        (Length(), "exact", "metric: got 'length' beside 'exact' in the settings"),
        ("numeric", "exact", "metric: got 'numeric' beside 'exact' in the settings"),
        (None, "best", "metric: got 'best', expected one of"),
        ("numeric", None, "metric: numeric is not for answers such as"),
        (None, "choice", "metric: choice is not for answers such as"),
    ],
)
def test_bad_metrics_are_refused_before_any_work(
    lm: LM,
    rows: list[Any],
    settings: dict[str, Any],
    tmp_path: Path,
    given: Any,
    settings_metric: str | None,
    message: str,
) -> None:
    config = {**settings, "metric": settings_metric}
    with pytest.raises(ValueError, match=r"metric") as caught:
        optimize(lm, rows, config=config, metric=given, run_dir=tmp_path / "run")
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"metric") as caught:
        evaluate(lm, rows, prompt=PROMPT, config=config, metric=given)
    assert message in str(caught.value)


def test_several_models_are_measured_by_themselves(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    """The training rows with the initial prompt too, which are not run again for that."""
    metric = Length()
    result = optimize(
        *([lm, tiny_lm("llama", seed=1)], rows),
        config={**settings, "steps": 1},
        metric=metric,
        run_dir=tmp_path / "run",
    )
    train, dev = result.baseline.train, result.baseline.dev
    assert isinstance(train, MeanEvaluation)
    assert isinstance(dev, MeanEvaluation)
    assert train.accuracy == pytest.approx(1 - result.baseline.train_error_rate, abs=1e-12)
    assert (len(train.rows), train.num_rows, train.metric) == (8, 4, "length")
    written = lines(result.run_dir, "rows.jsonl")
    for found, split in ((train, "train"), (dev, "dev")):
        for name, own in found.by_model.items():
            values = [
                row["metric"]
                for row in written
                if (row["split"], row["model"], row["prompt"]) == (split, name, found.prompt)
            ]
            assert [row.metric for row in own.rows] == values
    first, second = train.by_model.values()
    assert train.values == [
        (a.value + b.value) / 2 for a, b in zip(first.rows, second.rows, strict=True)
    ]
    assert dev.to_dict()["metric"] == "length"
