import time
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks.evidence import effect, effect_arms, effect_cells
from benchmarks.evidence.effect_arms import Place, Workbench, search
from benchmarks.evidence.effect_cells import ARMS, Budget, Cell, Cost, Log, Settings
from benchmarks.evidence.random_prompts import random_prompts
from greater_fast import Config, evaluate, optimize
from greater_fast.examples.metrics import METRICS
from greater_fast.rollouts import choose
from greater_fast.search.nouns import Candidates
from greater_fast.search.optimizer import start

SETTINGS = Settings(
    model="tiny", num_train=3, num_dev=4, num_test=6, num_finalists=2, max_new_tokens=4
)
TASK = "boolean_expressions"
TOKENS = Budget("tokens", 150)
SEARCHES = [arm for arm in ARMS if arm != "initial"]
pytestmark = pytest.mark.filterwarnings("ignore:all . training rows are:RuntimeWarning")


@pytest.fixture(scope="module")
def bench(lm):
    return Workbench(lm, SETTINGS)


@pytest.fixture(scope="module")
def place(bench):
    return bench.place(TASK, 0, list(ARMS))


def searched(place, arm, budget, seed=0):
    config, layouts = SETTINGS.config(arm, seed), place.layouts[arm]["train"]
    return search(place.engine, layouts, config, arm, budget)


def test_every_arm_comes_to_an_outcome_once(lm, tmp_path):
    cells = effect.cells_of([TASK], [0], list(ARMS), TOKENS)
    log = Log(tmp_path, SETTINGS)
    assert list(effect.run_cells(lm, SETTINGS, cells, log, time.monotonic() + 1e4)) == cells
    assert [cell.arm for cell in cells] == list(ARMS)
    again = Log(tmp_path, SETTINGS)
    assert again.outcomes == log.outcomes
    assert list(effect.run_cells(lm, SETTINGS, cells, again, time.monotonic() + 1e4)) == []
    for cell, outcome in log.outcomes.items():
        assert len(outcome.rows) == SETTINGS.num_test
        assert outcome.machine.endswith(f", {torch.get_num_threads()} threads")
        if cell.arm != "initial":
            assert outcome.search.tokens >= TOKENS.amount
            assert outcome.finals.tokens > 0
            assert outcome.num_candidates > 0
            assert outcome.stopped == "budget spent"


@pytest.mark.parametrize("arm", SEARCHES)
def test_no_step_begins_once_the_tokens_are_spent(place, arm):
    whole = searched(place, arm, TOKENS)
    assert whole.cost.tokens >= TOKENS.amount
    before = searched(place, arm, replace(TOKENS, amount=whole.cost.tokens))
    assert (before.num_steps, before.cost.tokens) == (whole.num_steps, whole.cost.tokens)
    more = searched(place, arm, replace(TOKENS, amount=whole.cost.tokens + 1))
    assert more.num_steps > whole.num_steps


@pytest.mark.parametrize("arm", SEARCHES)
def test_a_budget_that_the_initial_prompt_spends_leaves_no_step(place, arm):
    found = searched(place, arm, Budget("tokens", 1))
    assert (found.num_steps, found.num_candidates) == (0, 0)
    assert found.cost.tokens > 1
    assert place.best(found.state, SETTINGS.config(arm, 0))[0] == place.initial


@pytest.mark.parametrize("arm", SEARCHES)
def test_seconds_end_a_search(place, arm):
    found = searched(place, arm, Budget("seconds", 0.2))
    assert found.cost.seconds >= 0.2
    assert found.stopped == "budget spent"


@pytest.mark.parametrize("arm", ["ours", "random", "paper"])
def test_an_arm_finds_what_optimize_finds(lm, place, tmp_path, arm):
    found = searched(place, arm, TOKENS)
    config = SETTINGS.config(arm, 0)
    best, _ = place.best(found.state, config)
    splits = SETTINGS.splits(TASK, 0)
    result = optimize(
        lm,
        splits.train,
        splits.dev,
        test=splits.test,
        config=Config(**config.to_dict() | {"steps": found.num_steps}),
        run_dir=tmp_path / "run",
        progress=False,
    )
    assert len(result.steps) == found.num_steps > 2
    finalists = found.state.best(config.num_finalists, config)
    told = {f.prompt_ids: f for f in result.finalists}
    assert told.keys() == {place.initial, *(scored.prompt_ids for scored in finalists)}
    for ids, finalist in told.items():
        assert finalist.dev.rows == place.evaluated("dev", ids)[0].rows
    assert result.best.prompt_ids == best
    assert result.best.test.rows == place.evaluated("test", best)[0].rows


@pytest.mark.parametrize(
    ("right", "wanted"),
    [
        ({}, "initial"),
        ({"first": 1}, "first"),
        ({"second": 1, "first": 1}, "first"),
        ({"second": 2, "first": 1}, "second"),
        ({"initial": 1, "first": 1}, "initial"),
    ],
)
def test_the_best_finalist_is_chosen_as_optimize_chooses(place, monkeypatch, right, wanted):
    """The most development rows; of equals the initial prompt, then the better in training."""
    config = replace(SETTINGS.config("ours", 0), num_finalists=3)
    found = searched(place, "ours", Budget("tokens", 600))
    finalists = [s.prompt_ids for s in found.state.best(3, config) if s.prompt_ids != place.initial]
    ids = {"initial": place.initial, "first": finalists[0], "second": finalists[1]}
    counts = {ids[name]: number for name, number in right.items()}

    def evaluated(self, split, prompt_ids):
        assert split == "dev"
        return SimpleNamespace(num_correct=counts.get(prompt_ids, 0)), Cost(tokens=7, seconds=0.5)

    monkeypatch.setattr(Place, "evaluated", evaluated)
    best, cost = place.best(found.state, config)
    assert best == ids[wanted]
    num_entrants = 1 + len(finalists)
    assert cost == Cost(tokens=7 * num_entrants, seconds=0.5 * num_entrants)


def test_an_unchanged_sweep_does_not_end_an_arm(place):
    """`optimize` ends there; here the budget is to be spent."""
    found = searched(place, "ours", Budget("tokens", 3000))
    assert found.num_steps > 2 * len(place.initial)


def test_what_was_evaluated_is_charged_again_and_not_run_again(place):
    first = place.evaluated("dev", place.initial)
    tokens = place.engine.num_generated_tokens
    assert place.evaluated("dev", place.initial) is first
    assert place.engine.num_generated_tokens == tokens
    assert first[1].tokens > 0


def test_random_prompts_that_cannot_come_to_the_finals_are_not_finished(place):
    found = searched(place, "best_of_n", Budget("tokens", 1000))
    config = SETTINGS.config("best_of_n", 0)
    worst = found.state.best(config.num_finalists, config)[-1].objective.value(config)
    assert found.state.given_up
    assert min(found.state.given_up.values()) >= worst
    assert not found.state.given_up.keys() & found.state.scored.keys()


def test_random_prompts_that_run_out_leave_a_budget(place, monkeypatch):
    monkeypatch.setattr(
        "benchmarks.evidence.random_prompts.propose", lambda *_: Candidates((), (), 1)
    )
    found = searched(place, "best_of_n", Budget("tokens", 10**6))
    assert (found.stopped, found.num_candidates) == (effect_cells.NO_MORE, 0)


def test_random_prompts_are_distinct_and_the_same_for_a_seed(place):
    config, layouts = SETTINGS.config("best_of_n", 1), place.layouts["best_of_n"]["train"]
    prompts = [next(source) for source in [random_prompts(place.engine, layouts, config)] * 20]
    again = random_prompts(place.engine, layouts, config)
    assert len(set(prompts)) == 20
    assert prompts == [next(again) for _ in range(20)]
    changes = {sum(a != b for a, b in zip(ids, layouts.prompt_ids, strict=True)) for ids in prompts}
    assert min(changes) >= 1
    assert 5 <= max(changes) <= 8


def test_the_engine_is_made_again_for_longer_sequences_alone(lm, monkeypatch):
    bench, made = Workbench(lm, SETTINGS), []

    def make_engine(*arguments):
        made.append(arguments[-1])
        return choose.make_engine(*arguments)

    monkeypatch.setattr(effect_arms, "make_engine", make_engine)
    engines = [bench.place(TASK, seed, ["ours"]).engine for seed in range(3)]
    assert engines[0] is engines[1] is engines[2]
    assert len(made) == 1
    assert bench._engine_for(made[0]) is engines[0]
    assert bench._engine_for(made[0] + 1) is not engines[0]
    assert made[1] == made[0] + 64


def test_each_engine_is_warmed_up_once_before_seconds_count(lm):
    bench = Workbench(lm, SETTINGS)
    place = bench.place(TASK, 0, ["ours"])
    bench.warm_up(place, "ours")
    assert (before := place.engine.num_forward_tokens) > 0
    bench.warm_up(place, "ours")
    assert place.engine.num_forward_tokens == before
    longer = replace(place, engine=bench._engine_for(bench._longest + 1))
    bench.warm_up(longer, "ours")
    assert longer.engine.num_forward_tokens > 0
    assert start(place.engine, place.layouts["ours"]["train"], SETTINGS.config("ours", 0)).step == 0


def test_no_cell_is_begun_when_the_time_is_up(lm, tmp_path):
    cells = effect.cells_of([TASK], [0], ["ours"], TOKENS)
    log = Log(tmp_path, SETTINGS)
    assert list(effect.run_cells(lm, SETTINGS, cells, log, time.monotonic())) == []


def test_the_command_runs_goes_on_and_prints(model_folder, tmp_path, capsys):
    names = [name for name in asdict(SETTINGS) if name not in ("model", "device")]
    given = [x for n in names for x in (f"--{n.replace('_', '-')}", str(getattr(SETTINGS, n)))]
    command = ["--model", str(model_folder), "--out", str(tmp_path), "--amount", "100", *given]
    command += ["--tasks", TASK, "--arms", "ours", "initial"]
    effect.main([*command, "--seeds", "0"])
    assert capsys.readouterr().out.count(f"{TASK}, seed 0") == 2
    effect.main([*command, "--seeds", "0", "1"])
    told = capsys.readouterr().out
    assert (told.count(f"{TASK}, seed 0"), told.count(f"{TASK}, seed 1")) == (0, 2)
    (path,) = tmp_path.glob("*.jsonl")  # a tiny model is never right: figures want a difference
    right = path.read_text().replace('"rows": "000000"', '"rows": "100000"', 1)
    path.write_text(right)
    effect.main([*command, "--minutes", "0", "--plots", str(tmp_path / "figures")])
    for name in ("effect", "gain"):
        assert (tmp_path / "figures" / f"{name}-tiny-llama-cpu-tokens-100.svg").stat().st_size > 0
    told = capsys.readouterr().out
    assert "tiny-llama, cpu, 100 generated tokens a search" in told
    assert str(model_folder.parent) not in "".join(p.read_text() for p in tmp_path.glob("*.jsonl"))
    assert "| ours − initial prompt | " in told
    assert "Too few seeds of a task to conclude, 8 are the least: ours (2), random" in told


def test_what_was_found_is_tested_by_another_metric_without_a_search(lm, tmp_path, monkeypatch):
    """As `evaluate` measures the written prompt; a second time there is nothing to do."""
    task = "object_counting"

    def odd(predicted, example):  # what a model of random weights says is never a number
        return float(predicted == example.answer or sum(map(ord, predicted)) % 2)

    monkeypatch.setitem(METRICS, "numeric", odd)
    cells = effect.cells_of([task], [0], ["initial", "ours"], TOKENS)
    by_equality = Log(tmp_path, SETTINGS)
    list(effect.run_cells(lm, SETTINGS, cells, by_equality, time.monotonic() + 1e4))
    settings = replace(SETTINGS, metric="numeric")
    arguments = (lm, settings, cells, Log(tmp_path, settings), time.monotonic() + 1e4)
    assert list(effect.run_cells(*arguments, by_equality.outcomes)) == cells
    assert list(effect.run_cells(*arguments, by_equality.outcomes)) == []
    again = Log(tmp_path, settings).outcomes
    for cell, found in by_equality.outcomes.items():
        config = replace(SETTINGS.config(cell.arm, 0), metric="numeric")
        rows = SETTINGS.splits(task, 0).test
        alone = evaluate(lm, rows, prompt=found.prompt, config=config, progress=False).evaluation
        assert again[cell].rows == "".join("01"[row.metric == 1] for row in alone.rows)
        assert len(set(again[cell].rows)) == 2
        assert replace(again[cell], rows=found.rows, commit=found.commit) == found


def test_a_metric_that_is_not_for_a_task_is_refused(lm):
    settings = replace(SETTINGS, metric="numeric")
    with pytest.raises(ValueError, match="numeric is not for answers such as"):
        Workbench(lm, settings).place(TASK, 0, ["initial"])
    assert [task for task in effect.TASKS if not settings.is_measured(task)] == [TASK]


def test_the_command_tests_again_what_a_metric_is_for(tmp_path, capsys, monkeypatch):
    """And says what it is not for, before a model is loaded."""
    monkeypatch.setattr(effect, "load_lm", None)
    effect.main(["--metric", "numeric", "--out", str(tmp_path)])
    told = capsys.readouterr().out
    assert told.startswith(f"--metric numeric is not for the answers of {TASK}\n")
    with pytest.raises(SystemExit):
        effect.main(["--metric", "numerical", "--out", str(tmp_path)])


def test_a_budget_in_seconds_needs_its_seconds():
    with pytest.raises(SystemExit, match="--amount"):
        effect.main(["--minutes", "0", "--budget", "seconds"])


def test_cells_of_a_seed_stand_together():
    cells = effect.cells_of(["a", "b"], [0, 1], ["ours", "initial"], TOKENS)
    assert cells[:2] == [
        Cell(task="a", seed=0, arm="initial"),
        Cell(task="a", seed=0, arm="ours", budget=TOKENS),
    ]
    assert [(cell.task, cell.seed) for cell in cells[::2]] == [
        ("a", 0),
        ("b", 0),
        ("a", 1),
        ("b", 1),
    ]
