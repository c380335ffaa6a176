"""Whole runs on a tiny model: the same twice, stopped, killed, and from every kind of input."""

import datetime
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from greater_fast import Config, Example, optimize
from greater_fast.cli.main import main
from greater_fast.examples.extractor import make_extractor
from greater_fast.gradients import packing_trial
from greater_fast.model.lm import LM
from greater_fast.model.text.scripts import ASCII
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.runs.directory import read_run
from greater_fast.runs.sitting import run
from greater_fast.runs.timing.time_budget import TimeBudget
from greater_fast.search import optimizer
from greater_fast.search.nouns import WORK_FIELDS, Step
from greater_fast.search.state import LoopState
from tests.tiny import PROMPT, boolean_rows
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")


def step_log(run: Path) -> list[dict[str, Any]]:
    """The steps without what differs from run to run."""
    steps = read_run(run)["steps"]
    for step in steps:
        for name in WORK_FIELDS:
            del step[name]
    return steps


@pytest.mark.parametrize(("objective", "accept"), [("error", "improve"), ("loss", "best")])
def test_the_same_seed_gives_the_same_run(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path, objective: str, accept: str
) -> None:
    given = {**settings, "steps": 3, "objective": objective, "accept": accept}
    results = [
        optimize(lm, rows, config={**given, "seed": seed}, run_dir=tmp_path / name)
        for name, seed in (("first", 7), ("second", 7), ("third", 8))
    ]
    first, second, third = (
        "".join(json.dumps(step, ensure_ascii=False) + "\n" for step in step_log(r.run_dir))
        for r in results
    )
    assert first.encode() == second.encode()
    assert first != third
    assert results[0].prompt == results[1].prompt
    assert results[0].finalists == results[1].finalists
    for name in ("examples.jsonl", "rows.jsonl", "state.json"):
        contents = [(r.run_dir / name).read_bytes() for r in results[:2]]
        assert contents[0] == contents[1]


@pytest.mark.parametrize("accept", ["improve", "best"])
def test_a_run_does_not_depend_on_the_order_in_which_rollouts_end(
    lm: LM,
    rows: list[Any],
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    accept: str,
) -> None:
    own_run = RolloutEngine.run
    ends = random.Random(0)
    dropped: list[int] = []

    def shuffled(self: RolloutEngine, requests: Any, on_finished: Any = None) -> Any:
        rollouts, groups = own_run(self, requests), set[int]()
        for number in ends.sample(range(len(requests)), len(requests)) if on_finished else ():
            if requests[number].group in groups:
                rollouts[number] = None
            else:
                groups.update(on_finished(number, rollouts[number]))
        dropped.extend(groups)
        return rollouts

    given = {**settings, "steps": 3, "accept": accept}
    runs = [optimize(lm, rows, config=given, run_dir=tmp_path / "plain")]
    monkeypatch.setattr(RolloutEngine, "run", shuffled)
    runs += [optimize(lm, rows, config=given, run_dir=tmp_path / f"{n}") for n in range(2)]
    assert bool(dropped) is (accept == "improve")
    first, *others = (
        (step_log(r.run_dir), r.finalists, r.best, (r.run_dir / "state.json").read_bytes())
        for r in runs
    )
    assert all(other == first for other in others)


@pytest.mark.parametrize("candidates", ["vocabulary", "both"])
def test_shortlists_from_the_whole_vocabulary(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path, candidates: str
) -> None:
    """At the two tokens of a prompt, and at a new place behind them."""
    config = {**settings, "steps": 3, "candidates": candidates, "num_finalists": 1}
    prompt = "think step"
    result = optimize(lm, rows, prompt=prompt, config=config, run_dir=tmp_path / "run")
    steps = step_log(result.run_dir)
    assert [step["grows"] for step in steps] == [False, False, True]
    allowed = set(lm.vocabulary.candidate_mask(ASCII).nonzero().flatten().tolist())
    for step in steps:
        drawn = {trial["token_id"] for trial in step["trials"]}
        assert len(drawn) == Config().shortlist_size
        assert drawn <= allowed
        assert drawn != drawn & set(step["candidate_ids"])
        assert bool(step["candidate_ids"]) is (candidates == "both" or step["grows"])


def test_what_a_run_returns_and_leaves(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    seen: list[Step] = []
    began = datetime.date.today().isoformat()

    def watch(step: Step) -> None:
        seen.append(step)  # None, so the search goes on
        assert len(read_run(tmp_path / "run")["steps"]) == len(seen)

    result = optimize(
        lm,
        rows[:8],
        prompt=PROMPT,
        test=rows[8:],
        config={**settings, "steps": 4},
        run_dir=tmp_path / "run",
        on_step=watch,
    )
    assert result.stopped == "all steps done"
    assert tuple(seen) == result.steps
    assert [step.step for step in seen] == [0, 1, 2, 3]
    assert [step.index for step in seen] == [0, 1, 2, 3]
    assert all(
        set(step.seconds) == {"propose", "gradient", "score", "select"}
        and step.peak_memory_bytes > 0
        and len(step.trials) <= 3
        for step in seen
    )
    assert sum(step.num_generated_tokens for step in seen) > 0
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".lock",
        "clock.json",
        "examples.jsonl",
        "result.json",
        "rollouts.jsonl",
        "rows.jsonl",
        "run.json",
        "state.json",
        "steps.jsonl",
    ]
    held = read_run(tmp_path / "run")
    assert held["result"] == json.loads(json.dumps(result.to_dict()))
    assert [step["prompt"] for step in held["steps"]] == [step.prompt for step in seen]
    day = held["run"]["config"]["template_date"]
    assert began <= day <= datetime.date.today().isoformat()
    expected = Config(**{**settings, "steps": 4, "template_date": day})
    assert held["run"]["config"] == expected.to_dict()
    assert held["run"]["prompt"] == PROMPT
    assert held["run"]["seed"] == 0
    assert result.extractor == held["run"]["extractor"]
    assert make_extractor(result.extractor).in_config() == result.extractor
    state = LoopState.from_dict(json.loads((tmp_path / "run" / "state.json").read_text()))
    assert (state.step, state.index) == (4, 4)
    assert result.finalists[0].prompt_ids == state.best(1, Config(**settings))[0].prompt_ids


def test_finalists(
    lm: LM, labelled_rows: Callable[..., Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    rows = labelled_rows(PROMPT)
    assert len(rows) >= 24
    given = {**settings, "steps": 4, "num_dev": 12, "extractor": "The answer is"}
    result = optimize(lm, rows[:20], prompt=PROMPT, test=rows[20:], config=given, run_dir=tmp_path)
    prompts = [finalist.prompt for finalist in result.finalists]
    assert PROMPT in prompts
    assert len(set(prompts)) == len(prompts) == settings["num_finalists"] + 1
    searched = [finalist.objective for finalist in result.finalists]
    assert searched == sorted(searched)
    # These rows are labelled with what the model says to the initial prompt.
    assert result.dev_accuracy == max(f.dev_accuracy or 0 for f in result.finalists) == 1.0
    assert result.prompt == result.baseline.prompt == PROMPT
    assert result.baseline.objective > min(searched)
    assert result.dev_comparison is not None
    assert result.dev_comparison.p_value == 1.0
    assert result.test_accuracy == 1.0
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    num_train = settings["num_train"]
    num_test = len(result.baseline.test.rows)  # type: ignore[union-attr]
    assert len(lines) == 3 * 12 + num_train + num_test
    # The initial prompt's training rows by evaluation's measure, beside the search's.
    assert [f.train is None for f in result.finalists] == [p != PROMPT for p in prompts]
    assert result.baseline.train is not None
    assert (result.baseline.train.accuracy, result.baseline.train.num_rows) == (1.0, num_train)
    assert result.to_dict()["baseline"]["train"]["accuracy"] == 1.0
    limit = "reasonings were cut off at 6 tokens (max_new_tokens)"
    for name, prompt in (("initial", result.baseline), ("best", result.best)):
        told = f"dev rows, {name} prompt: {prompt.dev.num_cut_off} of 12 {limit}"  # type: ignore[union-attr]
        assert (told in result.notes) == (name == "initial" or prompt != result.baseline)


@pytest.mark.parametrize(
    ("golds", "asked", "change"),
    [
        (["18.0", "7.0", "36.0"], {"18", "7", "36"}, "'18.0' as '18'"),
        (["TRUE", "True", "true.", '"True"', "No", "no"], {"True", "No"}, "'TRUE' as 'True'"),
        (["Paris..", "«Rome»", "Oslo"], {"Paris", "Rome", "Oslo"}, "'Paris..' as 'Paris'"),
    ],
)
def test_golds_are_scored_in_the_form_that_is_asked_for(
    lm: LM,
    rows: list[Any],
    settings: dict[str, Any],
    tmp_path: Path,
    golds: list[str],
    asked: set[str],
    change: str,
) -> None:
    own = [{**row, "answer": golds[n % len(golds)]} for n, row in enumerate(rows)]
    given = {**settings, "steps": 0, "num_train": 6, "num_dev": 6}
    result = optimize(lm, own, own[:0] or None, config=given, run_dir=tmp_path / "run")
    held = read_run(tmp_path / "run")
    assert {row["answer"] for row in held["examples"]} == asked
    (note,) = [note for note in result.notes if note.startswith("answers in one form")]
    assert change in note
    for label in asked & {"True", "No"}:
        assert result.extractor.count(f"$ {label} $") == 1


def test_a_better_prompt_wins_on_the_development_rows(
    lm: LM, labelled_rows: Callable[..., Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    train = [{"question": question, "answer": "True"} for question, _ in boolean_rows(64)[60:]]
    given = {**settings, "steps": 3, "num_dev": 12, "extractor": "The answer is"}
    dev = labelled_rows(PROMPT)
    found = optimize(lm, train, dev[:12], prompt=PROMPT, config=given, run_dir=tmp_path / "a")
    assert found.prompt == PROMPT
    other = found.finalists[0].prompt
    dev = labelled_rows(other)  # of these, another prompt gets all right
    result = optimize(
        lm, train, dev[:12], prompt=PROMPT, test=dev[12:], config=given, run_dir=tmp_path / "b"
    )
    assert result.steps[-1].prompt_ids == found.steps[-1].prompt_ids
    assert result.prompt == other
    assert result.dev_accuracy == 1.0 > (result.baseline.dev_accuracy or 0)
    assert result.dev_accuracy == max(f.dev_accuracy or 0 for f in result.finalists)
    assert result.test_accuracy == 1.0 > (result.baseline.test_accuracy or 0)
    for comparison in (result.dev_comparison, result.test_comparison):
        assert comparison is not None
        assert comparison.num_only_second == 0 < comparison.num_only_first
        assert comparison.p_value < 0.05


def test_a_callback_ends_the_search(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    result = optimize(
        lm,
        rows,
        config={**settings, "steps": 9},
        run_dir=tmp_path,
        on_step=lambda step: step.step == 1,
    )
    assert result.stopped == "stopped by on_step"
    assert len(result.steps) == len(read_run(tmp_path)["steps"]) == 2
    assert result.dev_accuracy is not None


def test_no_steps_at_all(lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path) -> None:
    result = optimize(lm, rows, config={**settings, "steps": 0}, run_dir=tmp_path)
    assert result.best == result.baseline == result.finalists[0]
    assert (result.stopped, result.steps) == ("all steps done", ())


def test_no_time_at_all(
    lm: LM,
    rows: list[Any],
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No step is begun, and the initial prompt is measured on the other rows all the same."""
    config = {**settings, "minutes": 0.001}
    monkeypatch.setattr(TimeBudget, "has_room_for", lambda *_: False)  # however fast the machine
    result = optimize(lm, rows[:8], test=rows[8:], config=config, run_dir=tmp_path)
    assert (result.stopped, result.steps) == ("out of time", ())
    assert result.best == result.baseline == result.finalists[0]
    assert result.dev_accuracy is not None
    assert result.test_accuracy is not None
    assert result.baseline.train is None
    held = read_run(tmp_path)
    assert held["result"] == json.loads(json.dumps(result.to_dict()))
    assert not held["damage"]
    assert any(note.startswith("minutes=0.001: how far a run comes") for note in result.notes)


def test_packing_is_tried_once_and_before_the_first_score(
    lm: LM,
    rows: list[Any],
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that no step's seconds have the trial in them."""
    order: list[str] = []
    why_not, begin = packing_trial.why_not, optimizer.start

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any) -> Any:
            order.append(name)
            return call(*given)

        return called

    monkeypatch.setattr(packing_trial, "why_not", noted("try", why_not))
    monkeypatch.setattr(run, "start", noted("score", begin))
    optimize(lm, rows, config={**settings, "steps": 1}, run_dir=tmp_path)
    assert order == ["try", "score"]


def test_time_enough_changes_nothing(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    results = [
        optimize(lm, rows, config={**settings, "minutes": minutes}, run_dir=tmp_path / name)
        for name, minutes in (("free", None), ("limited", 1e6))
    ]
    assert step_log(results[0].run_dir) == step_log(results[1].run_dir)
    assert results[0].finalists == results[1].finalists
    for name in ("rows.jsonl", "state.json"):
        first, second = ((r.run_dir / name).read_bytes() for r in results)
        assert first == second
    more = set(results[1].notes) - set(results[0].notes)
    assert [note[:16] for note in more] == ["minutes=1e+06: h"]


def test_development_rows_are_split_off(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    result = optimize(lm, rows, config={**settings, "steps": 0}, run_dir=tmp_path)
    examples = read_run(tmp_path)["examples"]
    sets = {
        name: {e["question"] for e in examples if e["split"] == name} for name in ("train", "dev")
    }
    assert {name: len(questions) for name, questions in sets.items()} == {"train": 4, "dev": 4}
    assert not sets["train"] & sets["dev"]
    assert result.test_comparison is None
    assert any("4 rows used, drawn from the train source; 4 are in" in n for n in result.notes)


def test_every_kind_of_model_and_rows(
    lm: LM, model_folder: Path, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "rows.csv"
    datasets.Dataset.from_list(rows).to_csv(file)
    models = [lm, model_folder, str(model_folder), (lm.model, lm.tokenizer)]
    sources = [
        rows,
        [Example(*row) for row in boolean_rows(12)],
        datasets.Dataset.from_list(rows),
        str(file),
    ]
    results = [
        optimize(model, source, config=settings, run_dir=tmp_path / str(number))
        for number, (model, source) in enumerate(zip(models, sources, strict=True))
    ]
    logs = [[step["candidate_ids"] for step in step_log(result.run_dir)] for result in results]
    assert logs[0] == logs[1] == logs[2] == logs[3]
    assert len({result.prompt for result in results}) == 1


def test_a_loss_search_from_python_with_a_prompt_before_the_question(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    config = Config(**{**settings, "prompt_placement": "before", "objective": "loss"})
    result = optimize(lm, rows, prompt="Think about it", config=config, run_dir=tmp_path)
    objectives = [result.baseline.objective, *(step.objective for step in result.steps)]
    assert objectives == sorted(objectives, reverse=True)


def test_rows_without_a_signal_are_told(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.warns(RuntimeWarning, match="all 4 training rows are wrong for every prompt") as w:
        result = optimize(lm, rows, config={**settings, "steps": 3}, run_dir=tmp_path)
    assert len(w) == 1
    assert "objective 'loss'" in str(w[0].message)
    assert str(w[0].message) in result.notes
    assert str(w[0].message) in read_run(tmp_path)["result"]["notes"]


def test_rows_that_told_prompts_apart_later_are_not_flat(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    """Warned of after the first step, and no more true at the end: so no note says it."""
    calls = []

    def late(predicted: str, example: Example) -> float:
        calls.append(predicted)
        return 0.25 * (len(calls) > 4 * (1 + 3))  # behind the first prompt and the first step

    config = {**settings, "steps": 3, "stop_unchanged": False}
    with pytest.warns(RuntimeWarning, match="all 4 training rows are wrong"):
        result = optimize(lm, rows, config=config, metric=late, run_dir=tmp_path)
    assert len(result.steps) > 1
    assert not any("training rows are wrong" in note for note in result.notes)


KILLED = """
import json, sys, time
from greater_fast import optimize
from tests.tiny import boolean_rows, tiny_model, tiny_tokenizer

tokenizer = tiny_tokenizer("llama3")
rows = [{"question": q, "answer": a} for q, a in boolean_rows(12)]
optimize(
    (tiny_model("llama", len(tokenizer)), tokenizer),
    rows,
    config={**json.loads(sys.argv[1]), "steps": 50, "stop_unchanged": False},
    run_dir=sys.argv[2],
    on_step=lambda step: time.sleep(3600 if step.step == 2 else 0),
)
"""


def test_a_killed_run_leaves_its_finished_steps(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, json.dumps(settings), str(run)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    try:
        log = run / "steps.jsonl"

        def has_two_steps() -> bool:
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            return log.is_file() and log.read_bytes().count(b"\n") >= 2

        until(has_two_steps, "two steps")
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    held = read_run(run)
    assert held["result"] is None
    assert len(held["steps"]) >= 2
    assert [step["step"] for step in held["steps"]] == list(range(len(held["steps"])))
    state = LoopState.from_dict(json.loads((run / "state.json").read_text()))
    assert state.step in (len(held["steps"]), len(held["steps"]) - 1)
    assert main(["show", str(run)]) == 0
    assert "unfinished; last prompt:" in capsys.readouterr().out
