"""The paper's table on a tiny model: files found, rows split, cells done once, figures right."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence import reproduce_paper
from benchmarks.evidence.paper.cells import Cell, Log, Outcome, Settings
from benchmarks.evidence.paper.tasks import BENCHMARKS, Sizes, Task, found_tasks, shortfalls
from benchmarks.evidence.reproduce_paper import main, table
from greater_fast.examples.tasks import generate
from tests.conftest import SHARED_DATA


def write_rows(path: Path, num_rows: int, seed: int = 0) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["goal", "target", "final_target"])
        for example in generate("boolean_expressions", num_rows, seed):
            writer.writerow([example.question, example.answer, example.answer])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(folder / "BBH" / "first.csv", 30, 1)
    write_rows(folder / "BBH" / "second.csv", 30, 2)
    write_rows(folder / "FOLIO" / "train.csv", 20, 3)
    write_rows(folder / "FOLIO" / "dev.csv", 20, 4)
    write_rows(folder / "GSM8K" / "test_first30.csv", 30, 5)
    return folder


def test_tasks_are_found_by_the_names_of_their_files(data: Path) -> None:
    bbh, gsm8k, folio = (found_tasks(data, BENCHMARKS[name]) for name in BENCHMARKS)
    assert [task.name for task in bbh] == ["first", "second"]
    assert [(task.rows.name, task.dev, task.test) for task in gsm8k] == [
        ("test_first30.csv", None, None)
    ]
    (task,) = folio
    assert task.test is not None
    assert (task.rows.name, task.dev, task.test.name) == ("train.csv", None, "dev.csv")
    with pytest.raises(ValueError, match=r"BBH: got no data file, expected some of \.csv"):
        found_tasks(data / "BBH", BENCHMARKS["bbh"])


@pytest.mark.parametrize("name", ["bbh", "gsm8k", "folio"])
def test_no_question_is_in_two_splits_and_what_is_missing_is_said(data: Path, name: str) -> None:
    sizes = BENCHMARKS[name].sizes
    for task in found_tasks(data, BENCHMARKS[name]):
        splits = task.splits(sizes, seed=0)
        questions = [e.question for rows in (splits.train, splits.dev, splits.test) for e in rows]
        assert len(questions) == len(set(questions))
        assert min(len(splits.train) - 1, len(splits.dev), len(splits.test)) >= 1
        assert len(list(shortfalls(splits, sizes))) == 3
        assert task.splits(sizes, seed=0) == splits
        assert task.splits(sizes, seed=1).test != splits.test or task.test is not None


def test_a_file_that_is_large_enough_gives_all_rows_of_the_paper(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows" / "task.csv", 60)
    task = Task(benchmark="bbh", name="task", rows=tmp_path / "rows" / "task.csv")
    sizes = Sizes(train=10, dev=12, test=14)
    splits = task.splits(sizes, seed=3)
    assert [len(rows) for rows in (splits.train, splits.dev, splits.test)] == [10, 12, 14]
    assert not list(shortfalls(splits, sizes))


@pytest.mark.filterwarnings("ignore:all . training rows are:RuntimeWarning")
def test_the_command_goes_on_where_it_stopped_and_transfers(
    data: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cells.jsonl"
    command = [
        *("--model", str(model_folder), "--data", str(data), "--out", str(out)),
        *("--steps", "1", "--max-new-tokens", "4", "--max-rows", "5"),
    ]
    main([*command, "--tasks", "bbh", "--part", "1/2"])
    assert len(out.read_text().splitlines()) == 2
    before = out.read_text()
    main([*command, "--tasks", "bbh"])
    assert out.read_text().startswith(before)
    assert len(out.read_text().splitlines()) == 4
    printed = capsys.readouterr().out
    assert printed.count("first, seed 0, GReaTer") == 1
    assert "| bbh | 2 of 21 | 1 |" in printed
    assert "| gsm8k | 0 of 1 | 0 | – | – | – | Gemma-2-9B 88.6 → 89.4" in printed
    assert "train 5 of" not in printed  # what a trial leaves out is no shortfall of the files
    trial = "steps 1 for 105, max_new_tokens 4 for 512, max_rows 5"
    assert printed.count(f"Not the published settings: {trial}.") == 2
    main([*command, "--tasks", "bbh", "--transfer", str(model_folder)])
    cells = [json.loads(line) for line in out.read_text().splitlines()]
    searched, transferred = cells[:4], cells[4:]
    for first in searched:  # the same model again: the same rows, the same figures
        (again,) = (
            cell
            for cell in transferred
            if cell["cell"] == first["cell"] | {"transferred_to": str(model_folder)}
        )
        for name in ("prompt", "initial_correct", "num_correct", "num_rows"):
            assert again["outcome"][name] == first["outcome"][name]
    main([*command, "--minutes", "0"])
    assert len(out.read_text().splitlines()) == 8


@pytest.mark.filterwarnings("ignore:all . training rows are:RuntimeWarning")
def test_cells_of_other_rows_or_of_another_device_are_not_taken(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folio,) = found_tasks(data, BENCHMARKS["folio"])
    digest, log = folio.digest, Log(tmp_path / "cells.jsonl", Settings(model="m", device="a GPU"))
    cells = [
        Cell(benchmark="folio", task="folio", seed=0, search=search, rows=digest)
        for search in ("greater", "random")
    ]
    outcome = Outcome(prompt="p", initial_correct=1, num_correct=2, num_rows=10)
    for cell in cells:
        log.add(cell, outcome)
    assert "| folio | 1 of 1 | 1 |" in table(Log(log.path, log.settings))
    assert "Not the published" not in table(Log(log.path, log.settings))
    assert "| folio | 0 of 1 | 0 |" in table(Log(log.path, Settings(model="m")))
    command = ["--model", "m", "--data", str(data), "--out", str(log.path), "--minutes", "0"]
    main([*command, "--tasks", "folio"])
    told = capsys.readouterr().out  # the table of what there is, wherever it is printed
    assert "On a GPU:\n" in told
    assert "| folio | 1 of 1 | 1 |" in told
    assert "On cpu" not in told
    Log(log.path, Settings(model="m")).add(cells[0], outcome)
    write_rows(data / "FOLIO" / "dev.csv", 20, 9)
    assert found_tasks(data, BENCHMARKS["folio"])[0].digest != digest
    with pytest.raises(SystemExit):
        main([*command, "--tasks", "folio"])
    assert "has cells of folio with other rows" in capsys.readouterr().err
    main([*command, "--tasks", "bbh"])


def test_the_figures_of_a_table(tmp_path: Path) -> None:
    log = Log(tmp_path / "cells.jsonl", Settings(model="m"))
    for task, right in (("a", 30), ("b", 50)):
        for search, more in (("greater", 10), ("random", 0)):
            cell = Cell(benchmark="bbh", task=task, seed=0, search=search)
            outcome = Outcome(
                prompt="p",
                initial_correct=right,
                num_correct=right + more,
                num_rows=100,
                shortfalls=("dev 75 of 100",),
            )
            log.add(cell, outcome)
    log.add(
        Cell(benchmark="folio", task="folio", seed=0, search="greater"),
        Outcome(prompt="p", initial_correct=1, num_correct=2, num_rows=10),
    )
    for shown in (table(log), table(Log(log.path, log.settings))):
        # the error of a mean of two: the root of (0.307 0.693 + 0.5 0.5) / 100 over 2
        assert "| bbh | 2 of 21 | 1 | 40.0% [33.3%, 46.7%] | 50.0% [43.2%, 56.8%] | 40.0%" in shown
        assert "| folio | 0 of 1 | 0 | – |" in shown  # its control is not done
        assert "a: dev 75 of 100; b: dev 75 of 100" in shown
        assert "Not the published settings" not in shown
    assert "| bbh | 0 of 21 | 0 |" in table(Log(log.path, Settings(model="other")))


@pytest.mark.parametrize("tasks", [("a",), ("a", "b")])
def test_seeds_on_the_same_rows_are_no_further_rows(tmp_path: Path, tasks: tuple[str, ...]) -> None:
    settings, figures = Settings(model="m"), []
    for num_seeds in (1, 3):
        log = Log(tmp_path / f"{num_seeds}.jsonl", settings)
        for task in tasks:
            for seed in range(num_seeds):
                for search in ("greater", "random"):
                    cell = Cell(benchmark="gsm8k", task=task, seed=seed, search=search)
                    right = 60 + 10 * min(seed, 1)  # of later seeds more
                    log.add(
                        cell,
                        Outcome(prompt="p", initial_correct=50, num_correct=right, num_rows=100),
                    )
        (line,) = (text for text in table(log).splitlines() if "gsm8k" in text)
        figures.append(line.split(" | ")[3:5])
    assert figures[0][0] == figures[1][0]  # of the initial prompt nothing more is known
    assert (figures[0][1][:5], figures[1][1][:5]) == ("60.0%", "66.7%")


def test_a_line_that_a_kill_cut_off_is_run_again(tmp_path: Path) -> None:
    cells = [Cell(benchmark="bbh", task=t, seed=0, search="greater") for t in ("a", "b", "c")]
    outcome = Outcome(
        prompt="Gib\u2028 die «Antwort».", initial_correct=1, num_correct=2, num_rows=9
    )
    settings, path = Settings(model="m"), tmp_path / "cells.jsonl"
    log = Log(path, settings)
    log.add(cells[0], outcome)
    log.add(cells[1], outcome)
    path.write_bytes(path.read_bytes()[:-30])
    log = Log(path, settings)
    assert log.outcomes == {cells[0]: outcome}
    assert log.damage == []
    log.add(cells[2], outcome)
    log = Log(path, settings)
    assert log.outcomes == {cells[0]: outcome, cells[2]: outcome}
    assert log.damage == [f"{path}: 1 of 3 lines are damaged (2)"]


def test_the_rule_is_the_papers() -> None:
    cell = Cell(benchmark="gsm8k", task="gsm8k", seed=4, search="random")
    config = Settings(model="m").config(cell)
    assert (config.num_train, config.num_dev, config.steps) == (100, 100, 105)
    assert (config.accept, config.shortlist, config.seed) == ("best", "random", 4)
    assert Settings(model="m", objective="loss").config(cell).objective == "loss"
    assert config.template_date is not None  # searches of one task may run on two days


def test_a_transfer_asks_for_answers_as_the_search_did(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(tmp_path / "cells.jsonl", Settings(model="m"))
    (task,) = found_tasks(data, BENCHMARKS["folio"])
    cell = Cell(benchmark="folio", task="folio", seed=0, search="greater", rows=task.digest)
    asked = Outcome(
        prompt="p",
        initial_correct=1,
        num_correct=2,
        num_rows=9,
        extractor="So, in short: {answer}!",
    )
    log.add(cell, asked)
    given: list[Any] = []

    def evaluate(*_: Any, config: Any, **__: Any) -> None:
        given.append(config.extractor)
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce_paper, "evaluate", evaluate)
    monkeypatch.setattr(reproduce_paper, "load_lm", lambda name: name)
    with pytest.raises(KeyboardInterrupt):
        list(reproduce_paper.run_cells([task], log, 1, "other", math.inf))
    assert given == ["So, in short: {answer}!"]


def test_a_prompt_that_another_kind_of_device_found_is_transferred(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task,) = found_tasks(data, BENCHMARKS["folio"])
    cell = Cell(benchmark="folio", task="folio", seed=0, search="greater", rows=task.digest)
    log = Log(tmp_path / "cells.jsonl", Settings(model="m"))
    found = Outcome(prompt="of a GPU", initial_correct=1, num_correct=2, num_rows=9)
    Log(log.path, Settings(model="m", device="a GPU")).add(cell, found)
    given: list[str] = []

    def transferred(model: Any, task: Any, cell: Cell, found: Outcome, *_: Any) -> Outcome:
        given.append(found.prompt)
        return found

    monkeypatch.setattr(reproduce_paper, "transferred", transferred)
    monkeypatch.setattr(reproduce_paper, "load_lm", lambda name: name)
    for device in ("another GPU", "cpu"):
        own = Log(log.path, Settings(model="m", device=device))
        (done,) = reproduce_paper.run_cells([task], own, 1, "other", math.inf)
        assert done == replace(cell, transferred_to="other")
        log.add(cell, replace(found, prompt="its own"))
    assert given == ["of a GPU", "its own"]


def test_a_transfer_of_nothing_is_refused_before_a_model_is_loaded(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reproduce_paper, "load_lm", None)
    command = ["--model", "m", "--data", str(data), "--out", str(tmp_path / "cells.jsonl")]
    with pytest.raises(SystemExit):
        main([*command, "--tasks", "folio", "--transfer", "other"])
    assert "has no prompt of these tasks" in capsys.readouterr().err
    main([*command, "--tasks", "folio", "--transfer", "other", "--minutes", "0"])


def test_what_is_wrong_is_said_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce_paper, "load_lm", None)
    with pytest.raises(SystemExit):
        main(["--model", "m", "--data", str(tmp_path), "--tasks", "folio"])
    assert "got no data file" in capsys.readouterr().err


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the folder of real inputs is not here")
def test_real_files_are_split() -> None:
    found = [task for name in BENCHMARKS for task in found_tasks(SHARED_DATA, BENCHMARKS[name])]
    assert len(found) == 10
    for task in found:
        splits = task.splits(BENCHMARKS[task.benchmark].sizes, seed=0)
        assert len(splits.test) >= 70
        assert len(splits.train) >= 26
