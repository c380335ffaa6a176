import time

import pytest

from benchmarks.evidence import effect
from benchmarks.evidence.random_prompts import random_prompts
from greater_fast.examples.extractor import derive_extractor
from greater_fast.examples.layout import build_layouts
from greater_fast.model.lm import load_lm
from greater_fast.rollouts.choose import make_engine
from tests.tiny import PROMPT, tiny_model, tiny_tokenizer

SETTINGS = effect.Settings(
    model="tiny", steps=2, num_train=3, num_dev=4, num_test=6, num_finalists=2, max_new_tokens=4
)
TASK = "boolean_expressions"
METHODS = ("gradient", "random", "best_of_n")
CELLS = [effect.Cell(task=TASK, seed=0, method=method) for method in METHODS]


@pytest.fixture(scope="module")
def lm():
    tokenizer = tiny_tokenizer("llama3")
    return load_lm((tiny_model("llama", len(tokenizer)), tokenizer))


@pytest.mark.filterwarnings("ignore:all . training rows are:RuntimeWarning")
def test_all_methods_have_the_same_rows_and_the_same_budget(lm, tmp_path):
    path = tmp_path / "effect.jsonl"
    log = effect.Log(path, SETTINGS)
    done = list(effect.run_cells(lm, SETTINGS, CELLS, log, time.monotonic() + 100))
    assert done == CELLS
    again = effect.Log(path, SETTINGS)
    assert again.outcomes == log.outcomes
    assert {cell.method for cell in log.outcomes} == set(effect.METHODS)
    assert {o.num_rows for o in log.outcomes.values()} == {SETTINGS.num_test}
    searched, drawn = (log.outcomes[CELLS[i]].num_candidates for i in (0, 2))
    assert searched == drawn > 0
    assert list(effect.run_cells(lm, SETTINGS, CELLS, again, time.monotonic() + 100)) == []
    table = effect.table(again, [TASK, "object_counting"]).splitlines()
    assert table[2].startswith(f"| {TASK} | 1 | ")
    assert "–" in table[3]
    assert table[4].removeprefix("| all") == table[2].removeprefix(f"| {TASK}")


def test_lines_of_other_settings_do_not_count(tmp_path):
    path = tmp_path / "effect.jsonl"
    outcome = effect.Outcome(prompt="p", num_correct=1, num_rows=2, num_candidates=3)
    effect.Log(path, SETTINGS).add(CELLS[0], outcome)
    assert effect.Log(path, SETTINGS).outcomes == {CELLS[0]: outcome}
    assert effect.Log(path, effect.Settings()).outcomes == {}


def test_no_cell_is_begun_when_the_time_is_up(tmp_path):
    log = effect.Log(tmp_path / "effect.jsonl", SETTINGS)
    assert list(effect.run_cells(None, SETTINGS, CELLS, log, time.monotonic())) == []


def test_random_prompts_are_distinct_and_the_same_for_a_seed(lm):
    config = SETTINGS.config(seed=1)
    rows = SETTINGS.splits(TASK, 1).train
    extractor = derive_extractor([row.answer for row in rows])
    layouts = build_layouts(lm, rows, PROMPT, extractor, config)
    engine, _ = make_engine(lm, config)
    prompts = random_prompts(engine, layouts, 5, config)
    assert len(set(prompts)) == 5
    assert prompts == random_prompts(engine, layouts, 5, config)
    for ids in prompts:
        differ = sum(a != b for a, b in zip(ids, layouts.prompt_ids, strict=True))
        assert 1 <= differ <= config.steps


def test_the_table_is_printed_without_a_model(tmp_path, capsys):
    effect.main(["--minutes", "0", "--out", str(tmp_path / "none.jsonl")])
    assert capsys.readouterr().out.splitlines()[-1].startswith("| all | 0 | –")
