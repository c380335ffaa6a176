"""`greater-fast evaluate`, and the help of every command."""

import argparse
import dataclasses
import json
import os
import re
import runpy
import shutil
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import pytest

from greater_fast import evaluate
from greater_fast.cli import commands
from greater_fast.cli import main as cli
from greater_fast.cli.evaluation_input import EvaluationInput
from greater_fast.config import Config
from greater_fast.runs.directory import read_run
from greater_fast.runs.input import InputError
from greater_fast.version import __version__
from tests.tiny import PROMPT, boolean_rows

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """Rows of which a run on the first twelve has seen eight at most."""
    path = tmp_path / "fresh.jsonl"
    lines = [json.dumps({"question": q, "answer": a}) + "\n" for q, a in boolean_rows(18)]
    path.write_text("".join(lines))
    return path


def test_evaluate_prints_the_report_as_json(
    command: Any, model_folder: Path, data: Path, settings: dict[str, Any], limits: list[str]
) -> None:
    done = command(
        "evaluate", "--model", model_folder, "--data", data, "--prompt", PROMPT, "--json", *limits
    )
    assert (done.status, done.err) == (0, "greater-fast: evaluating a prompt on 12 rows\n")
    report = evaluate(str(model_folder), str(data), prompt=PROMPT, config=settings)
    assert done.values == json.loads(json.dumps(report.to_dict()))
    assert done.values["num_rows"] == 12
    assert done.values["accuracy"] == report.accuracy
    assert done.values["interval"] == list(report.interval)


def test_two_prompts_and_records(
    command: Any, model_folder: Path, data: Path, limits: list[str], tmp_path: Path
) -> None:
    records = tmp_path / "deep" / "records.jsonl"
    other = "Think about the problem."
    done = command(
        *("evaluate", "--model", model_folder, "--data", data, "--prompt", PROMPT),
        *("--against", other, "--records", records, *limits),
    )
    assert (done.status, done.err) == (0, "greater-fast: evaluating a prompt on 12 rows\n" * 2)
    assert done.out.count("of 12 rows") == 2
    assert f"  {PROMPT}\n" in done.out
    assert f"  {other}\n" in done.out
    assert "only the first right 0, only the second 0, McNemar p = 1.000" in done.out
    assert "equal (first less second: 95% interval −" in done.out
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    assert [line["prompt"] for line in lines] == [PROMPT] * 12 + [other] * 12
    fields = {"prompt", "question", "gold", "predicted", "correct", "reasoning", "cut_off"}
    assert set(lines[0]) == fields


def test_prompt_model_and_extractor_of_a_run(
    command: Any, finished: Path, fresh: Path, model_folder: Path
) -> None:
    run = read_run(finished)
    done = command("evaluate", "--run", finished, "--data", fresh, "--json")
    assert done.status == 0
    assert done.err.startswith("8 of 18 rows left out: the run has searched or chosen on them\n")
    assert done.values["num_rows"] == 10
    assert done.values["prompt"] == run["result"]["prompt"]
    best = run["result"]["prompt"] == PROMPT
    assert (done.values["against"] is None) == best
    report = evaluate(
        str(model_folder),
        [json.loads(line) for line in fresh.read_text().splitlines()][-6:],
        prompt=run["result"]["prompt"],
        config={**run["run"]["config"], "extractor": run["run"]["extractor"]},
    )
    assert done.values["extractor"] == report.extractor == run["run"]["extractor"]


def test_the_model_of_a_run_is_found_from_any_folder(
    command: Any, finished: Path, fresh: Path, tmp_path: Path
) -> None:
    """By where it lay, not by the name that was typed there; what was loaded lies nowhere."""
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    run = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**run, "model": "./model"}))
    assert command("evaluate", "--run", copy, "--data", fresh, "--json").status == 0
    (copy / "run.json").write_text(json.dumps({**run, "source": [None]}))
    refused = command("evaluate", "--run", copy, "--data", fresh)
    assert (refused.status, refused.out) == (2, "")
    assert "model: the run was begun with a loaded model, which no file holds" in refused.err
    model = ("--model", run["source"][0])
    assert command("evaluate", "--run", copy, "--data", fresh, *model).status == 0


def test_a_metric_by_name(command: Any, model_folder: Path, data: Path, limits: list[str]) -> None:
    common = ("--model", model_folder, "--data", data, "--prompt", PROMPT, *limits)
    done = command("evaluate", *common, "--metric", "contains", "--json")
    assert (done.status, done.values["metric"]) == (0, "contains")
    refused = command("evaluate", *common, "--metric", "numeric")
    assert (refused.status, refused.out) == (2, "")
    assert "metric: numeric is not for answers such as 'False'" in refused.err


def test_answers_are_counted_as_in_the_run(
    command: Any, finished: Path, tmp_path: Path, limits: list[str]
) -> None:
    """By the run's rows numbers are from 1; a few rows more would be read as from 0."""
    copy, few = tmp_path / "copy", tmp_path / "few.jsonl"
    shutil.copytree(finished, copy)
    row = {"question": "Which?", "choices": ["w", "x", "y", "z"], "answer": 1}
    few.write_text("\n".join(json.dumps({**row, "question": f"Which? {n}"}) for n in range(3)))
    given = ("evaluate", "--run", copy, "--data", few)
    run = json.loads((copy / "run.json").read_text())
    assert run["readings"] == []
    assert command(*given).status == 0
    (copy / "run.json").write_text(json.dumps({**run, "readings": ["numbers from 1"]}))
    refused = command(*given)
    assert refused.status == 2
    assert "data are read as numbers from 0, though numbers from 1 would fit" in refused.err


def test_a_setting_that_is_on_is_named_by_the_option_that_turns_it_off() -> None:
    taken = EvaluationInput({}, ("tensor_parallel",))
    with pytest.raises(InputError) as caught, taken.explained():
        raise InputError("tensor_parallel: got one process")
    assert caught.value.__notes__ == [
        "the tensor_parallel is that of the run: --no-tensor-parallel gives another one"
    ]


def test_settings_may_come_from_a_pipe(
    command: Any, finished: Path, fresh: Path, tmp_path: Path
) -> None:
    """Which is read once."""
    pipe = tmp_path / "settings.json"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=('{"metric": "exact"}',), daemon=True)
    writer.start()
    done = command("evaluate", "--run", finished, "--data", fresh, "--config", pipe, "--json")
    assert done.status == 0
    assert any("measured by: exact" in note for note in done.values["notes"])


def test_a_run_without_its_examples_has_seen_who_knows_what(
    command: Any, finished: Path, fresh: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    (copy / "examples.jsonl").unlink()
    refused = command("evaluate", "--run", copy, "--data", fresh)
    assert refused.status == 2
    assert "the run's examples.jsonl is missing or empty" in refused.err


def test_settings_of_a_run_are_named_as_the_runs(
    command: Any, finished: Path, fresh: Path, tmp_path: Path
) -> None:
    """In the report, and in errors: that of an option names no run."""
    copy, words = tmp_path / "copy", tmp_path / "words.jsonl"
    shutil.copytree(finished, copy)
    run = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(
        json.dumps({**run, "config": {**run["config"], "metric": "numeric"}, "metric": "numeric"})
    )
    refused = command("evaluate", "--run", copy, "--data", fresh)
    assert refused.status == 2
    assert "metric: numeric is not for answers such as" in refused.err
    assert "; the metric is that of the run: --metric gives another one" in refused.err
    named = command("evaluate", "--run", copy, "--data", fresh, "--metric", "numeric")
    assert "is not for answers" in named.err
    assert "of the run" not in named.err
    words.write_text('{"question": "Which?", "answer": "1$"}\n')
    refused = command("evaluate", "--run", copy, "--data", words, "--metric", "exact")
    assert refused.status == 2
    assert "the extractor is that of the run: --extractor gives another one" in refused.err
    assert "metric is that" not in refused.err
    (copy / "run.json").write_text(
        json.dumps({**run, "config": {**run["config"], "metric": "contains"}, "metric": "contains"})
    )
    notes = command("evaluate", "--run", copy, "--data", fresh, "--json").values["notes"]
    assert "the metric contains is that of the run" in notes
    assert not any("without effect" in note for note in notes)  # nobody asked for a search


def test_a_function_of_a_run_is_not_known_later(
    command: Any, finished: Path, fresh: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    run = json.loads((copy / "run.json").read_text())
    assert run["metric"] is None
    (copy / "run.json").write_text(json.dumps({**run, "metric": "mine"}))
    given = ("evaluate", "--run", copy, "--data", fresh)
    warning = "warning: the run measured answers by mine, a function that is not known here"
    assert warning in command(*given, "--json").err
    assert warning not in command(*given, "--metric", "exact", "--json").err


@pytest.mark.parametrize("failure", ["ValueError: metric: close gave 2", None])
def test_a_run_without_a_result_says_why(
    command: Any, finished: Path, fresh: Path, tmp_path: Path, failure: str | None
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    (copy / "result.json").unlink()
    if failure:
        try:
            try:
                raise KeyError("the cause")
            except KeyError as cause:
                error = ValueError(failure.removeprefix("ValueError: "))
                error.add_note("the best prompt until then: that")
                raise error from cause
        except ValueError:
            (copy / "traceback.txt").write_text(traceback.format_exc())
    shown = command("show", copy).out
    assert (f"failed: {failure}; last" if failure else "unfinished; last") in shown
    why = f"it failed: {failure}" if failure else "it was cut off, or goes on"
    told = f"warning: the run has no result ({why}): its last prompt is evaluated"
    assert told in command("evaluate", "--run", copy, "--data", fresh, "--json").err


def test_options_win_over_the_run(command: Any, finished: Path, fresh: Path) -> None:
    done = command(
        *("evaluate", "--run", finished, "--data", fresh, "--prompt", "Think about it."),
        *("--extractor", "It is ( ", "--json"),
    )
    assert done.values["prompt"] == "Think about it."
    assert done.values["extractor"] == "It is ( {answer} )"
    assert done.values["against"] is None


def test_a_run_that_was_cut_off_gives_its_last_prompt(
    command: Any, unfinished: Path, fresh: Path
) -> None:
    done = command("evaluate", "--run", unfinished, "--data", fresh, "--json")
    assert done.values["prompt"] == read_run(unfinished)["steps"][-1]["prompt"]
    assert done.values["against"]["prompt"] == read_run(unfinished)["run"]["prompt"]


def test_rows_that_the_run_has_seen(command: Any, finished: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen.jsonl"
    examples = read_run(finished)["examples"]
    assert {example["split"] for example in examples} == {"train", "dev"}
    seen.write_text("".join(json.dumps(example) + "\n" for example in examples))
    done = command("evaluate", "--run", finished, "--data", seen)
    assert (done.status, done.out) == (2, "")
    assert "the run has seen all of these rows: give it test rows" in done.err


def test_missing_model_and_prompt(command: Any, data: Path) -> None:
    done = command("evaluate", "--data", data)
    assert done.status == 2
    assert "--model and --prompt missing: give it, or --run RUN" in done.err
    done = command("evaluate", "--data", data, "--model", "m")
    assert "greater-fast: --prompt missing" in done.err


def test_columns(command: Any, model_folder: Path, limits: list[str], tmp_path: Path) -> None:
    data = tmp_path / "rows.csv"
    lines = [f'"{question}",{answer}' for question, answer in boolean_rows(9)]
    data.write_text("\n".join(["Frage,Antwort", *lines]))
    common = ("--model", model_folder, "--prompt", PROMPT, "--json", *limits)
    named = ("--columns", "question=Frage, answer=Antwort")
    done = command("evaluate", "--data", data, *named, *common)
    assert done.values["num_rows"] == 9
    done = command("optimize", "--train", data, *named, *common, "--run-dir", tmp_path / "run")
    assert done.status == 0
    refused = command("evaluate", "--data", data, *common)
    assert (refused.status, refused.out) == (2, "")
    assert "got the columns Frage, Antwort" in refused.err


def test_columns_of_a_run_are_taken_where_the_file_has_them(
    command: Any, model_folder: Path, limits: list[str], tmp_path: Path
) -> None:
    pairs = boolean_rows(18)

    def written(name: str, head: str, first: int, last: int) -> Path:
        lines = [f'"{question}",{answer}' for question, answer in pairs[first:last]]
        (tmp_path / name).write_text("\n".join([head, *lines]))
        return tmp_path / name

    train = written("train.csv", "Frage,Antwort", 0, 9)
    named, run = ("--columns", "question=Frage,answer=Antwort"), tmp_path / "run"
    given = ("--model", model_folder, "--prompt", PROMPT, *limits)
    assert command("optimize", "--train", train, *named, *given, "--run-dir", run).status == 0
    assert read_run(run)["run"]["columns"] == {"question": "Frage", "answer": "Antwort"}
    own = written("own.csv", "frage,ANTWORT", 9, 15)
    usual = written("usual.csv", "question,answer", 9, 15)
    other = written("other.csv", "Text,Klasse", 9, 15)
    note = "the columns are those of the run: question=Frage,answer=Antwort"
    reports = [
        command("evaluate", "--run", run, "--data", *data, "--json").values
        for data in ((own,), (usual,), (other, "--columns", "question=Text,answer=Klasse"))
    ]
    assert [note in report["notes"] for report in reports] == [True, False, False]
    assert all(report["num_rows"] == 6 for report in reports)
    assert len({report["accuracy"] for report in reports}) == 1
    refused = command("evaluate", "--run", run, "--data", other)
    assert "got the columns Text, Klasse; expected question/answer or " in refused.err
    task = tmp_path / "task.yaml"
    done = command("export", run, "--to", "lm-eval", "--data", own, "-o", task)
    assert (done.status, note in done.err) == (0, True)
    resumed = command("resume", run, "--steps", "3", "--json")
    assert resumed.status == 0
    assert read_run(run)["run"]["columns"] == {"question": "Frage", "answer": "Antwort"}


@pytest.mark.parametrize("columns", [5, "Frage", None, {"question": 5}])
def test_columns_of_a_run_that_are_none_are_not_taken(
    command: Any, finished: Path, fresh: Path, tmp_path: Path, columns: Any
) -> None:
    run = tmp_path / "copy"
    shutil.copytree(finished, run)
    values = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**values, "columns": columns}))
    assert command("evaluate", "--run", run, "--data", fresh, "--json").status == 0


@pytest.mark.parametrize("columns", ["question", "question=", "=Frage", "Frage=question", ",", ""])
def test_columns_that_are_no_pairs(command: Any, data: Path, columns: str) -> None:
    done = command("evaluate", "--data", data, "--columns", columns)
    assert (done.status, done.out) == (2, "")
    assert f"--columns: got {columns!r}, expected question=NAME,answer=NAME" in done.err


def test_interruption_is_status_130(
    command: Any, data: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "evaluate", interrupt)
    done = command("evaluate", "--model", "m", "--data", data, "--prompt", PROMPT)
    assert done == (130, "", "greater-fast: interrupted before the evaluation was done\n")
    monkeypatch.setattr(commands, "read_run", interrupt)
    done = command("show", finished)
    assert done == (130, "", "greater-fast: interrupted before all was shown\n")


def test_a_terminal_is_told_what_is_measured(
    command: Any,
    model_folder: Path,
    data: Path,
    limits: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ("evaluate", "--model", model_folder, "--data", data, "--prompt", PROMPT, *limits)
    quiet = command(*arguments)
    assert "\x1b" not in quiet.err
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    told = command(*arguments)
    assert "evaluating a prompt on 12 rows" in told.err
    assert told.out.strip() == quiet.out.strip()


def parsers() -> dict[str, argparse.ArgumentParser]:
    (found,) = [
        action
        for action in commands.parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    return dict(found.choices)


@pytest.mark.parametrize("name", ["optimize", "evaluate", "show"])
def test_help_explains_every_option(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for action in parsers()[name]._actions:
        assert action.help
        assert (action.option_strings or [action.metavar])[-1] in text
        assert "%(" not in text
    if name != "show":
        text = re.sub(r", --no-[a-z-]+", "", text)  # beside what is on or off
        explained = " ".join(text.split()).partition(" settings: ")[2]
        for setting in dataclasses.fields(Config):
            _, found, rest = explained.partition(f"--{setting.name.replace('_', '-')} ")
            assert found
            explanation, found, explained = rest.partition("(default: ")
            assert found
            assert explanation.endswith(f"{setting.metadata['help']} ")


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in parsers())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["optimise"],
        ["optimize", "--model", "m"],
        ["optimize", "--model", "m", "--train", "a", "--task", "boolean_expressions"],
        ["optimize", "--model", "m", "--train", "a", "--stepz", "3"],
        ["optimize", "--model", "m", "--train", "a", "--steps", "three"],
        ["optimize", "--model", "m", "--train", "a", "--objective", "best"],
        ["optimize", "--model", "m", "--train", "a", "--chat-template-kwargs", "{"],
        ["evaluate", "--model", "m"],
        ["show"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage: greater-fast" in capsys.readouterr().err


def test_run_as_a_module(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["greater-fast", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("greater_fast", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"greater-fast {__version__}\n"
