import json
from dataclasses import asdict, replace

import pytest

from benchmarks.evidence import effect_cells
from benchmarks.evidence.effect_cells import (
    ARMS,
    Budget,
    Cell,
    Cost,
    Log,
    Outcome,
    Settings,
    arms_first_to_last,
    kinds_of_device,
)
from greater_fast.config import PAPER
from greater_fast.examples.tasks import TASKS

SETTINGS = Settings(model="m", num_train=50, num_dev=3, num_test=5)
OURS = Cell(task="boolean_expressions", seed=0, arm="ours", budget=Budget("tokens", 10.0))
OUTCOME = Outcome(
    prompt="Gib «die» Antwort.", rows="01101", search=Cost(tokens=12, seconds=1.5), num_steps=2
)


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path, SETTINGS)


def the_file(folder):
    (path,) = folder.glob("*.jsonl")
    return path


def test_what_is_written_is_read(log, tmp_path):
    initial = Cell(task="object_counting", seed=3, arm="initial")
    log.add(OURS, OUTCOME)
    log.add(initial, replace(OUTCOME, rows="11111"))
    assert Log(tmp_path, SETTINGS).outcomes == {OURS: OUTCOME, initial: log.outcomes[initial]}
    names = {path.name for path in tmp_path.glob("*")}
    assert names == {"boolean_expressions.cpu.jsonl", "object_counting.cpu.jsonl"}
    assert OUTCOME.accuracy == 0.6


@pytest.mark.parametrize(
    "change", [{"num_test": 6}, {"metric": "numeric"}, {"device": "NVIDIA H100"}, {"model": "n"}]
)
def test_lines_of_other_settings_do_not_count(log, tmp_path, change):
    log.add(OURS, OUTCOME)
    assert Log(tmp_path, replace(SETTINGS, **change)).outcomes == {}


def test_lines_that_were_written_before_there_was_a_metric_go_by_equality(log, tmp_path):
    log.add(OURS, OUTCOME)
    path = the_file(tmp_path)
    line = json.loads(path.read_text())
    assert line["settings"].pop("metric") == "exact"
    path.write_text(json.dumps(line) + "\n")
    assert Log(tmp_path, SETTINGS).outcomes == {OURS: OUTCOME}
    assert Log(tmp_path, replace(SETTINGS, metric="numeric")).outcomes == {}
    assert effect_cells.other_metrics(tmp_path) == []
    Log(tmp_path, replace(SETTINGS, metric="numeric")).add(OURS, OUTCOME)
    assert effect_cells.other_metrics(tmp_path) == ["numeric"]


def test_lines_of_other_defaults_do_not_count(log, tmp_path, monkeypatch):
    log.add(OURS, OUTCOME)
    changed = {**effect_cells._compared(SETTINGS, "ours"), "num_draws": 4}
    monkeypatch.setattr(effect_cells, "_compared", lambda settings, arm: changed)
    assert Log(tmp_path, SETTINGS).outcomes == {}


def test_a_setting_that_came_later_was_off(log, tmp_path):
    log.add(OURS, OUTCOME)
    path = the_file(tmp_path)
    line = json.loads(path.read_text())
    del line["config"]["gradient_norm"]
    path.write_text(json.dumps(line) + "\n")
    assert Log(tmp_path, SETTINGS).outcomes == {OURS: OUTCOME}


def test_files_of_several_processes_are_read_as_one(log, tmp_path):
    log.add(OURS, OUTCOME)
    other = Log(tmp_path, SETTINGS)
    later = replace(OURS, seed=1)
    other.add(later, OUTCOME)
    log.add(replace(OURS, task="object_counting"), OUTCOME)
    assert len(Log(tmp_path, SETTINGS).outcomes) == 3


def test_the_first_line_of_a_cell_counts(log, tmp_path):
    log.add(OURS, OUTCOME)
    log.add(OURS, replace(OUTCOME, rows="00000"))
    assert Log(tmp_path, SETTINGS).outcomes == {OURS: OUTCOME}


def test_a_line_that_a_kill_cut_off_is_left_and_the_next_one_is_whole(log, tmp_path):
    log.add(OURS, OUTCOME)
    path = the_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    assert Log(tmp_path, SETTINGS).outcomes == {}
    log.add(replace(OURS, seed=1), OUTCOME)
    again = Log(tmp_path, SETTINGS)
    assert list(again.outcomes) == [replace(OURS, seed=1)]
    assert len(again.damage) == 1


def test_kinds_of_devices_have_files_of_their_own(tmp_path):
    for device in ("cpu", "NVIDIA H100 80GB HBM3"):
        Log(tmp_path, replace(SETTINGS, device=device)).add(OURS, OUTCOME)
    assert kinds_of_device(tmp_path) == ["NVIDIA H100 80GB HBM3", "cpu"]
    names = {path.name for path in tmp_path.glob("*")}
    assert "boolean_expressions.nvidia-h100-80gb-hbm3.jsonl" in names
    assert kinds_of_device(tmp_path / "none") == []


def test_arms_differ_in_what_they_are_named_for_alone():
    found = {arm: SETTINGS.config(arm, 7).to_dict() for arm in ARMS}
    assert found["initial"] == found["ours"] == found["best_of_n"]
    changed = {name for name, value in found["random"].items() if value != found["ours"][name]}
    assert changed == {"shortlist"}
    rule = {name: value for name, value in PAPER.items() if found["paper"][name] != value}
    assert rule.keys() == {"steps", "max_new_tokens", "num_dev", "num_finalists"}
    assert found["paper"]["num_dev"] == found["ours"]["num_dev"] == 3
    assert {values["seed"] for values in found.values()} == {7}
    assert {values["stop_unchanged"] for values in found.values()} == {False}


@pytest.mark.parametrize("task", TASKS)
def test_no_question_is_in_two_sets_and_seeds_draw_their_own(task):
    wanted = Settings()
    splits = [wanted.splits(task, seed) for seed in (0, 1)]
    for found in splits:
        questions = [row.question for row in (*found.train, *found.dev, *found.test)]
        assert len(set(questions)) == len(questions)
        assert (len(found.train), len(found.test)) == (50, 200)
        assert len(found.dev) == (38 if task == "multistep_arithmetic" else 100)
    assert splits[0].test != splits[1].test
    assert wanted.splits(task, 0) == splits[0]


def test_a_task_with_too_few_questions_is_refused():
    with pytest.raises(ValueError, match="288 questions"):
        Settings(num_test=400).splits("multistep_arithmetic", 0)
    assert len(Settings(num_test=400).splits("object_counting", 0).test) == 400


def test_arms_are_run_in_one_order():
    assert arms_first_to_last(["best_of_n", "ours", "initial", "ours"]) == [
        "initial",
        "ours",
        "best_of_n",
    ]


def test_a_cell_is_plain_json():
    line = json.loads(json.dumps({"cell": asdict(OURS), "outcome": asdict(OUTCOME)}))
    assert Cell.from_dict(line["cell"]) == OURS
    assert Outcome.from_dict(line["outcome"]) == OUTCOME
