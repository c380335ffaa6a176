"""Runs that are stopped and gone on with come to the bits of those that are not."""

import contextlib
import errno
import fcntl
import functools
import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from greater_fast import optimize, resume
from greater_fast.cli.main import main
from greater_fast.config import Config
from greater_fast.model.kv_cache import block_bytes
from greater_fast.model.lm import LM, load_lm
from greater_fast.runs.directory import RunDirectory, read_run
from greater_fast.runs.result import Result
from greater_fast.runs.sitting.journal import Journal
from greater_fast.search.nouns import WORK_FIELDS, Candidates, Position, Step
from greater_fast.search.state import LoopState
from tests.tiny import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")


class StopError(Exception):
    """What ends a sitting."""


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def left_by(result: Result) -> dict[str, Any]:
    """All that a run leaves, but for times and for what says where it lies."""
    run = result.run_dir
    steps = lines(run / "steps.jsonl")
    for step in steps:
        for name in WORK_FIELDS:
            del step[name]
    values = result.to_dict()
    del values["run_dir"]
    return {
        "result": json.loads(json.dumps(values)),
        "steps": steps,
        "rows": lines(run / "rows.jsonl"),
        "rollouts": lines(run / "rollouts.jsonl"),
        "state": json.loads((run / "state.json").read_text()),
    }


def stop_by_return(step: Step) -> bool:
    return True


def stop_by_error(*_: object) -> None:
    raise StopError


def stop_by_ctrl_c(step: Step) -> None:
    os.kill(os.getpid(), signal.SIGINT)


STOPS = (stop_by_return, stop_by_error, stop_by_ctrl_c)
SEARCHES: dict[str, dict[str, Any]] = {
    "race": {"race": 0.5, "num_train": 6},
    "stored reasonings": {"gradient": "both"},
    "sampled reasonings": {"gradient": "both", "reasonings": "sampled"},
    "drawn shortlist": {"shortlist": "random", "candidates": "both"},
    "sampling": {"sampling_temperature": 0.8, "accept": "best"},
    "loss": {"objective": "loss", "gradient": "reasoning"},
    "metric": {"metric": "exact"},
    "few blocks": {"accept": "best", "kv_cache_bytes": 0},
    "one batch after another": {"engine": "generate", "batch_size": 3},
}


@pytest.fixture
def begin(lm: LM, rows: list[Any], settings: dict[str, Any]) -> Callable[..., Result]:
    def call(run: Path, given: dict[str, Any] | None = None, **others: Any) -> Result:
        config = {**settings, "steps": 3, "num_finalists": 1, **(given or {})}
        given_rows = {"prompt": "think step", "config": config, "run_dir": run, **others}
        return optimize(lm, rows[:10], progress=False, **given_rows)

    return call


def stopped_and_resumed(run: Path, num_steps: int, begin: Any, **others: Any) -> Result:
    """A run that is stopped after every step, in one way after another, and gone on with."""
    stops = itertools.cycle(STOPS)
    with contextlib.suppress(StopError):
        begin(on_step=next(stops))
    while len(lines(run / "steps.jsonl")) < num_steps:
        with contextlib.suppress(StopError):
            resume(run, on_step=next(stops), progress=False, **others)
    return resume(run, on_step=lambda step: None, progress=False, **others)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_run_that_is_stopped_after_every_step(
    begin: Callable[..., Result], lm: LM, tmp_path: Path, name: str
) -> None:
    given = dict(SEARCHES[name])
    if "kv_cache_bytes" in given:  # of one sequence, and a block more
        given["kv_cache_bytes"] = 9 * block_bytes(lm)
    whole = left_by(begin(tmp_path / "whole", given))
    assert len(whole["steps"]) == given.get("steps", 3)
    run = tmp_path / "run"
    start = functools.partial(begin, run, given)
    left = left_by(stopped_and_resumed(run, len(whole["steps"]), start, model=lm))
    rows = left.pop("rows"), whole.pop("rows")
    notes = left["result"]["notes"]
    more = [note for note in notes if note not in whole["result"]["notes"]]
    assert ["a row's bits depend on" in note for note in more] == (
        [True] if given.get("engine") == "generate" else []
    )
    left["result"]["notes"] = [note for note in notes if note not in more]
    assert left == whole
    found, expected = (
        {
            (row["split"], row["prompt"], row["row"]): (row["predicted"], row["reasoning"])
            for row in own
        }
        for own in rows
    )
    assert len(found) == len(rows[0])  # none twice
    assert expected.items() <= found.items()


def test_an_earlier_prompt_that_wins_again(
    begin: Callable[..., Result], lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tokens take turns in one place: behind the first step no prompt there is a new one."""
    three = [lm.vocabulary.ids(word)[0] for word in (" think", " read", " count")]

    def propose(_: Any, __: Any, position: Position, ___: Any) -> Candidates:
        others = sorted(i for i in three if i != position.incumbent_id and position.index == 0)
        return Candidates(tuple(others), (0.0,) * len(others), 3)

    monkeypatch.setattr("greater_fast.search.optimizer.propose", propose)
    given = {"accept": "best", "stop_unchanged": False, "steps": 6, "max_prompt_tokens": 2}
    whole = left_by(begin(tmp_path / "whole", given))
    tried = [tuple(step["prompt_ids"]) for step in whole["steps"] if step["index"] == 0]
    assert len(whole["rollouts"]) <= 4  # the initial prompt, and one for each token
    assert len(tried) == 3 > len(set(tried))
    start = functools.partial(begin, tmp_path / "run", given)
    left = left_by(stopped_and_resumed(tmp_path / "run", 6, start, model=lm))
    del left["rows"], whole["rows"]
    assert left == whole


def test_several_models(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path, tokenizer: Any
) -> None:
    other = load_lm((tiny_model("qwen2", len(tokenizer)), tokenizer))
    config = {**settings, "num_finalists": 1, "accept": "best"}
    given = {"prompt": "think step", "config": config, "progress": False}
    whole = left_by(optimize([lm, other], rows[:8], run_dir=tmp_path / "whole", **given))
    start = functools.partial(optimize, [lm, other], rows[:8], run_dir=tmp_path / "run", **given)
    left = left_by(stopped_and_resumed(tmp_path / "run", 2, start, model=[lm, other]))
    del left["rows"], whole["rows"]
    assert left == whole
    with pytest.raises(ValueError, match="model: its weights are not those"):
        resume(tmp_path / "run", model=[other, lm], on_step=print, progress=False)
    for model, number in ((lm, 1), ([lm, other, lm], 3)):
        with pytest.raises(
            ValueError, match=f"model: got {number}, the run was begun with 2: give"
        ):
            resume(tmp_path / "run", model=model, on_step=print, progress=False)
    whole: Any = Config(steps=40)
    with pytest.raises(ValueError, match="config: got a Config, expected a mapping of those"):
        resume(tmp_path / "run", model=[lm, other], config=whole, progress=False)


def test_a_stop_at_any_row_of_finals_and_test(
    begin: Callable[..., Result],
    lm: LM,
    rows: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = left_by(begin(tmp_path / "whole", {"steps": 1}, test=rows[10:]))
    run, plain = tmp_path / "run", RunDirectory.append_row
    left: list[int] = []

    def append(self: RunDirectory, row: Any) -> None:
        if not left:
            raise StopError
        left.pop()
        plain(self, row)

    monkeypatch.setattr(RunDirectory, "append_row", append)
    with pytest.raises(StopError):
        begin(run, {"steps": 1}, test=rows[10:])
    for number in (0, 3, 5, 4):
        left += range(number)
        with pytest.raises(StopError):
            resume(run, model=lm, progress=False)
    left += range(99)
    assert left_by(resume(run, model=lm, progress=False)) == whole


def test_a_search_that_had_ended_is_not_gone_on_with_before_its_finals(
    begin: Callable[..., Result], lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = left_by(begin(tmp_path / "whole", on_step=stop_by_return))
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "append_row", stop_by_error)
        with pytest.raises(StopError):
            begin(run, on_step=stop_by_return)
    assert left_by(resume(run, model=lm, on_step=watch, progress=False)) == whole
    assert whole["result"]["stopped"] == "stopped by on_step"
    result = resume(run, model=lm, on_step=watch, progress=False)
    assert (result.stopped, len(result.steps)) == ("all steps done", 3)


def test_a_step_that_is_cut_off_in_its_middle_is_dropped(
    begin: Callable[..., Result], lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where some of its candidates stand in the state already."""
    whole = left_by(begin(tmp_path / "whole"))
    plain, added = LoopState.add, []

    def add(self: LoopState, *given: Any) -> None:
        plain(self, *given)
        added.append(self.step)
        if added.count(1) == 1 and self.step == 1:
            raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(LoopState, "add", add)
        with pytest.raises(StopError):
            begin(tmp_path / "run")
    held = read_run(tmp_path / "run")
    assert (held["result"]["num_steps"], len(held["steps"])) == (1, 1)
    assert left_by(resume(tmp_path / "run", model=lm, progress=False)) == whole


def test_more_steps_than_were_planned(
    begin: Callable[..., Result], lm: LM, rows: list[Any], tmp_path: Path
) -> None:
    whole = begin(tmp_path / "whole", test=rows[10:])
    run = tmp_path / "run"
    first = begin(run, {"steps": 1}, test=rows[10:])
    assert first.test_seen_after is None
    assert left_by(resume(run, model=lm, progress=False))["result"] == left_by(first)["result"]
    more = resume(run, model=lm, steps=3, progress=False)
    assert read_run(run)["run"]["config"]["steps"] == 3
    assert len(read_run(run)["run"]["resumed"]) == 2
    assert more.finalists == whole.finalists
    assert (more.best, more.stopped) == (whole.best, whole.stopped)
    assert (whole.test_seen_after, more.test_seen_after) == (None, 1)
    assert set(more.notes) - set(whole.notes) == {n for n in more.notes if "after 1 steps" in n}
    assert "rows never seen" not in more.summary
    with pytest.raises(ValueError, match="steps: got 2, the run has done 3"):
        resume(run, model=lm, steps=2)


def test_as_many_steps_as_are_done_go_to_the_finals(
    begin: Callable[..., Result], lm: LM, tmp_path: Path
) -> None:
    whole = begin(tmp_path / "whole", {"steps": 2})
    first = begin(tmp_path / "run", {"steps": 6}, on_step=lambda step: step.step == 1)
    result = resume(tmp_path / "run", model=lm, steps=2, on_step=lambda step: None, progress=False)
    assert (result.prompt, result.best.dev) == (whole.prompt, whole.best.dev)
    assert len(result.steps) == len(first.steps) == 2
    assert result.stopped == "all steps done"
    with pytest.raises(ValueError, match="steps: got 1, the run has done 2: none can be taken"):
        resume(tmp_path / "run", model=lm, steps=1, on_step=lambda step: None, progress=False)


def test_a_search_that_a_sweep_had_ended_goes_on_with_another(
    lm: LM, rows: list[dict[str, str]], settings: dict[str, Any], tmp_path: Path
) -> None:
    """Nothing is ever better; so the first sweep ends it, and a second one is drawn anew."""

    def alike(predicted: str, row: Any) -> float:
        return 0.5

    given = {**settings, "steps": 60, "error_fluency_weight": 0.0}
    result = optimize(lm, rows, config=given, metric=alike, run_dir=tmp_path, progress=False)
    assert result.stopped == "a whole sweep without a change"
    num_steps = len(result.steps)
    again = resume(tmp_path, model=lm, metric=alike, steps=60, progress=False)
    assert (len(again.steps), again.stopped) == (num_steps, result.stopped)
    more = {"stop_unchanged": False, "steps": num_steps + 2}
    result = resume(tmp_path, model=lm, metric=alike, config=more, progress=False)
    assert (len(result.steps), result.stopped) == (num_steps + 2, "all steps done")
    assert [step.index for step in result.steps[-2:]] == [step.index for step in result.steps[:2]]


def test_a_result_stays_until_there_is_another_and_what_is_known_stands_in_that(
    begin: Callable[..., Result], lm: LM, rows: list[Any], tmp_path: Path
) -> None:
    run, seen = tmp_path / "run", list[Any]()
    first = begin(run, {"steps": 1}, test=rows[10:])
    before = (run / "result.json").read_bytes()

    def end(step: Step) -> None:
        seen.append(((run / "earlier_result.json").read_bytes(), (run / "result.json").exists()))
        stop_by_ctrl_c(step)

    result = resume(run, model=lm, steps=2, on_step=end, progress=False)
    assert seen == [(before, False)]
    assert (result.stopped, read_run(run)["result"]["num_steps"]) == ("interrupted", 2)
    assert not (run / "earlier_result.json").exists()
    for measured in ("train", "dev", "test"):
        assert getattr(result.baseline, measured) == getattr(first.baseline, measured) is not None


def test_a_step_that_on_step_has_not_heard_is_told_when_the_run_goes_on(
    begin: Callable[..., Result], lm: LM, tmp_path: Path
) -> None:
    """A process that is killed as it is told of a step leaves the files as they are then."""
    run, killed, heard = tmp_path / "run", tmp_path / "killed", list[int]()

    def leave(step: Step) -> None:
        if step.step == 1:
            shutil.copytree(run, killed)

    begin(run, on_step=leave)
    assert json.loads((killed / "state.json").read_text())["unanswered"]

    def stop(step: Step) -> bool:
        heard.append(step.step)
        return True

    result = resume(killed, model=lm, on_step=stop, progress=False)
    assert (heard, result.stopped, len(result.steps)) == ([1], "stopped by on_step", 2)
    resume(killed, model=lm, on_step=stop, progress=False)
    assert heard == [1, 2]


def test_what_on_step_has_answered_is_kept(
    begin: Callable[..., Result], lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed once a step was answered has stopped there, and tells it no more."""
    run, killed, plain = tmp_path / "run", tmp_path / "killed", Journal.answer

    def answer(self: Journal, ended: str | None) -> None:
        plain(self, ended)
        shutil.copytree(run, killed, dirs_exist_ok=True)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "answer", answer)
        begin(run, on_step=lambda step: step.step == 1)
    result = resume(killed, model=lm, on_step=stop_by_error, progress=False)
    assert (result.stopped, len(result.steps)) == ("stopped by on_step", 2)


def test_before_there_is_anything_to_go_on_from(
    begin: Callable[..., Result], lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run begins where the folder holds none, or one that was ended before its first score."""
    with monkeypatch.context() as patch:
        patch.setattr("greater_fast.runs.sitting.run.start", stop_by_error)
        with pytest.raises(StopError):
            begin(tmp_path / "run", {"steps": 1}, resume=True)
    result = begin(tmp_path / "run", {"steps": 1}, resume=True)
    assert left_by(result) == left_by(begin(tmp_path / "whole", {"steps": 1}))
    with pytest.raises(ValueError, match="run_dir: got none to go on in"):
        begin(None, resume=True)  # type: ignore[arg-type]
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match="holds no run"):
            resume(folder, model=lm)
    assert not (tmp_path / "none").exists()


def watch(step: Step) -> None: ...


def loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, ids)


def metric(predicted: str, example: Any) -> float:
    return 0.5


def test_what_decides_a_run_must_be_as_it_was(
    begin: Callable[..., Result], lm: LM, rows: list[Any], tmp_path: Path, tokenizer: Any
) -> None:
    run = tmp_path / "run"
    functions: dict[str, Any] = {"on_step": watch, "loss": loss, "metric": metric}
    first = left_by(begin(run, {"steps": 1}, **functions))

    def refused(message: str, **given: Any) -> None:
        with pytest.raises(ValueError, match=message):
            begin(run, **{"given": {"steps": 1}, "resume": True, **functions, **given})

    refused("other settings \\(top_k 10, now 9, seed 0, now 1\\)", given={"top_k": 9, "seed": 1})
    refused("prompt: got 'step think', the run was begun with 'think step'", prompt="step think")
    refused(r"train, dev or test: \d of 8 rows are not those", dev=rows[10:])
    for name in functions:
        refused(f"{name}: the run was begun with the function .*: give it again", **{name: None})
    for name in ("loss", "metric"):
        refused(f"{name}: got '<lambda>', the run was begun", **{name: lambda a, b: loss(a, b)})
    with pytest.raises(ValueError, match="model: the run was begun with a loaded model"):
        resume(run, **functions)
    other = load_lm((tiny_model("llama", len(tokenizer), seed=1), tokenizer))
    with pytest.raises(ValueError, match="model: its weights are not those"):
        resume(run, model=other, **functions)
    assert left_by(begin(run, {"steps": 1}, resume=True, **functions)) == first


def test_settings_of_memory_may_change(
    begin: Callable[..., Result], lm: LM, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    begin(run, {"steps": 1})
    held = read_run(run)["run"]["engines"]
    assert held[0]["max_step_tokens"] == 256
    result = resume(run, model=lm, config={"max_step_tokens": 64}, steps=2, progress=False)
    assert any("resumed with max_step_tokens None, now 64" in note for note in result.notes)
    assert read_run(run)["run"]["engines"] == [{**held[0], "max_step_tokens": 64}]


def test_an_engine_is_made_as_it_was(begin: Callable[..., Result], lm: LM, tmp_path: Path) -> None:
    """Also where sizes were measured, or followed from memory that was free then."""
    run = tmp_path / "run"
    begin(run, {"steps": 0})
    values = json.loads((run / "run.json").read_text())
    measured = {
        **values["engines"][0],
        "max_step_tokens": 48,
        "kv_cache_bytes": 40 * block_bytes(lm),
    }
    (run / "run.json").write_text(json.dumps({**values, "engines": [measured]}))
    result = resume(run, model=lm, steps=1, progress=False)
    assert read_run(run)["run"]["engines"] == [measured]
    assert not [note for note in result.notes if "resumed" in note]


def test_a_folder_that_is_not_locked_is_noted_once(
    begin: Callable[..., Result], lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", flock)
    begun = begin(tmp_path / "run", {"steps": 0})
    resumed = resume(tmp_path / "run", model=lm, progress=False)
    for result in (begun, resumed):
        assert sum("is not locked, as its file system" in note for note in result.notes) == 1


def test_minutes_count_all_sittings(begin: Callable[..., Result], lm: LM, tmp_path: Path) -> None:
    run, given = tmp_path / "run", {"steps": 2, "minutes": 1e6}
    with contextlib.suppress(StopError):
        begin(run, given, on_step=stop_by_error)
    clock = json.loads((run / "clock.json").read_text())
    assert clock["seconds"] > clock["score_seconds"] > 0
    (run / "clock.json").write_text(json.dumps({**clock, "seconds": 6e7}))
    result = resume(run, model=lm, on_step=watch, progress=False)
    assert (result.stopped, len(result.steps)) == ("out of time", 1)
    result = resume(run, model=lm, on_step=watch, config={"minutes": 2e6}, progress=False)
    assert (result.stopped, len(result.steps)) == ("all steps done", 2)


def test_from_the_command_line(
    model_folder: Path,
    settings: dict[str, Any],
    rows: list[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, run = tmp_path / "rows.jsonl", tmp_path / "run"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows[:8]))
    limits = [
        s for name, value in settings.items() for s in (f"--{name.replace('_', '-')}", str(value))
    ]
    begun = ["optimize", "--model", str(model_folder), "--train", str(data), *limits]
    begun += ["--prompt", "think step", "--run-dir", str(run), "--resume"]
    assert main([*begun, "--steps", "1"]) == 0
    assert main([*begun, "--steps", "2"]) == 0
    assert len(read_run(run)["steps"]) == 2
    assert main(["resume", str(run), "--steps", "3", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shown == read_run(run)["result"]
    assert len(read_run(run)["steps"]) == 3
    assert main(["resume", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
