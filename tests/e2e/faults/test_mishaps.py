"""Runs to which something happens: errors of others, disks, folders, Ctrl-C; the result is kept."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from greater_fast import evaluate, optimize
from greater_fast.model.lm import LM
from greater_fast.runs import evaluation
from greater_fast.runs.directory import RunDirectory, read_run
from greater_fast.runs.result import Result
from greater_fast.search.nouns import Step
from tests.tiny import PROMPT

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")
Search = Callable[..., Result]


@pytest.fixture
def search(lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path) -> Search:
    def call(on_step: Any = None, run_dir: Any = None, loss: Any = None) -> Result:
        return optimize(
            lm,
            rows[:8],
            prompt=PROMPT,
            config={**settings, "steps": 3},
            run_dir=run_dir or tmp_path / "run",
            on_step=on_step,
            loss=loss,
        )

    return call


def interrupt_itself() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class MishapError(Exception):
    """Something of the caller's own."""


@pytest.mark.parametrize(
    "error", [MishapError("mine"), KeyError("a"), SystemExit(3), ValueError("x")]
)
def test_a_callback_that_raises_leaves_the_result(
    search: Search, tmp_path: Path, error: BaseException
) -> None:
    def fail(step: Step) -> None:
        if step.step == 1:
            raise error

    with pytest.raises(type(error)) as caught:
        search(fail)
    assert caught.value is error
    run = read_run(tmp_path / "run")
    assert len(run["steps"]) == 2
    assert run["result"]["stopped"].startswith(f"failed: {type(error).__name__}: ")
    best = min(run["steps"], key=lambda step: step["objective"])["prompt"]
    assert run["result"]["prompt"] == best
    assert json.loads((tmp_path / "run" / "state.json").read_text())["step"] == 2
    assert error.__notes__[0] == f"the best prompt until then: {best}"
    if isinstance(error, Exception):
        assert str(tmp_path / "run") in error.__notes__[1]
        assert "in fail" in (tmp_path / "run" / "traceback.txt").read_text()


class WordlessError(Exception):
    """One of a class that fails where it should tell."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (WordlessError(), "WordlessError"),
        (MemoryError(), "MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory: mine"), "OutOfMemoryError: CUDA out"),
        (RuntimeError("cannot allocate memory: mine"), "RuntimeError: cannot allocate"),
    ],
)
@pytest.mark.parametrize("name", ["on_step", "metric"])
def test_an_error_of_a_callback_is_told_as_it_is(
    lm: LM,
    rows: list[Any],
    settings: dict[str, Any],
    tmp_path: Path,
    name: str,
    error: Exception,
    told: str,
) -> None:
    """What it says of memory is of its own: it is asked once, and nothing of ours is lowered."""
    calls: list[Any] = []

    def fail(*given: Any) -> float:
        calls.append(given)
        if len(calls) <= 8 and name == "metric":  # the first score, and some of the first step
            return 0.5
        raise error

    with pytest.raises(type(error)) as caught:
        optimize(
            *(lm, rows[:8]),
            prompt=PROMPT,
            config=settings,
            run_dir=tmp_path / "run",
            **{name: fail},
        )
    assert caught.value is error
    assert len(calls) == (9 if name == "metric" else 1)
    assert read_run(tmp_path / "run")["result"]["stopped"].startswith(f"failed: {told}")


def test_a_loss_that_raises_in_the_second_step(search: Search, tmp_path: Path) -> None:
    finished: list[Step] = []

    def loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        if finished:
            raise MishapError("mine")
        return torch.nn.functional.cross_entropy(logits, ids)

    with pytest.raises(MishapError):
        search(finished.append, loss=loss)
    run = read_run(tmp_path / "run")
    assert len(run["steps"]) == 1
    assert run["result"]["stopped"] == "failed: MishapError: mine"


def test_an_error_in_the_finals_keeps_what_was_measured(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, measured = evaluation.evaluate_prompt, []

    def fail(*arguments: Any) -> Any:
        if measured:
            raise MishapError("mine")
        measured.append(plain(*arguments))
        return measured[0]

    monkeypatch.setattr("greater_fast.runs.models.mean_evaluation.evaluate_prompt", fail)
    with pytest.raises(MishapError):
        search()
    result = read_run(tmp_path / "run")["result"]
    assert [f["dev"] is not None for f in result["finalists"]] == [True, False, False]
    assert result["best"]["dev"]["accuracy"] == measured[0].accuracy


@pytest.mark.parametrize("name", ["on_step", "loss"])
@pytest.mark.parametrize("given", [5, lambda: None, lambda a, b, c: None])
def test_what_cannot_be_called_is_refused_before_all_else(
    search: Search, tmp_path: Path, name: str, given: Any
) -> None:
    with pytest.raises(ValueError, match=f"{name}: got .*, expected a function of a"):
        search(**{name: given})
    assert list(tmp_path.iterdir()) == []


def test_two_runs_in_one_folder(search: Search, tmp_path: Path) -> None:
    refused: list[str] = []

    def second(step: Step) -> None:
        with pytest.raises(ValueError, match="holds another run") as caught:
            search()
        refused.append(str(caught.value))

    result = search(second)
    assert len(refused) == len(result.steps) == len(read_run(tmp_path / "run")["steps"]) == 3


def test_the_folder_is_taken_before_the_model_is_touched(
    rows: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bool] = []

    def load(*arguments: Any) -> None:
        with pytest.raises(ValueError, match="holds another run"):
            RunDirectory(tmp_path / "run")
        taken.append(True)
        raise ValueError("no such model")

    monkeypatch.setattr("greater_fast.runs.models.outlines.outline_lm", load)
    with pytest.raises(ValueError, match="no such model"):
        optimize("m", rows, run_dir=tmp_path / "run", config={"num_train": 4, "num_dev": 4})
    assert taken == [True]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_removed_meanwhile(search: Search, tmp_path: Path) -> None:
    def remove(step: Step) -> None:
        if step.step == 0:
            shutil.rmtree(tmp_path / "run")

    with pytest.warns(RuntimeWarning, match="could not be written: No such file") as told:
        result = search(remove)
    assert sum("could not be written" in str(warning.message) for warning in told) == 1
    assert (result.stopped, len(result.steps)) == ("all steps done", 3)
    assert result.dev_accuracy is not None
    assert "could not be written" in result.notes[-1]
    assert not (tmp_path / "run").exists()


def test_a_disk_that_is_full_for_a_while(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, is_full = os.replace, [False]

    def replace(self: Path, target: Path) -> None:
        if is_full[0]:
            raise OSError(28, "No space left on device")
        plain(self, target)

    def fill(step: Step) -> None:
        is_full[0] = step.step == 0

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.warns(RuntimeWarning, match=r"state\.json could not be written: No space left"):
        result = search(fill)
    run = read_run(tmp_path / "run")
    assert (len(run["steps"]), run["damage"]) == (3, [])
    assert run["result"]["prompt"] == result.prompt


def test_a_working_folder_that_changes(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    result = search(lambda step: os.chdir(tmp_path / "elsewhere"), run_dir="relative")
    assert result.run_dir == tmp_path / "relative"
    assert read_run(tmp_path / "relative")["result"]["prompt"] == result.prompt
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.fixture
def interrupt_writing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Interrupts whatever writes the outcome, before and behind it, where the list holds a step."""
    stopping: list[int] = []
    for name in ("write_state", "write_result"):
        plain = getattr(RunDirectory, name)

        def write(self: RunDirectory, values: Any, plain: Any = plain) -> None:
            if stopping:
                interrupt_itself()
            plain(self, values)
            if stopping:
                interrupt_itself()

        monkeypatch.setattr(RunDirectory, name, write)
    return stopping


def test_interruptions_that_come_together_do_not_take_the_result(
    search: Search,
    tmp_path: Path,
    interrupt_writing: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("greater_fast.runs.interrupts._TOGETHER", 1e9)

    def stop(step: Step) -> None:
        interrupt_writing.append(step.step)
        interrupt_itself()

    result = search(stop)
    assert interrupt_writing == [0]
    assert result.stopped == "interrupted"
    assert read_run(tmp_path / "run")["result"]["prompt"] == result.prompt
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interruption_stops_at_once_and_harms_nothing(
    search: Search,
    tmp_path: Path,
    interrupt_writing: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("greater_fast.runs.interrupts._TOGETHER", 0)

    def stop(step: Step) -> None:
        interrupt_writing.append(step.step)
        interrupt_itself()

    with pytest.raises(KeyboardInterrupt) as caught:
        search(stop)
    assert str(tmp_path / "run") in caught.value.__notes__[0]
    run = read_run(tmp_path / "run")
    assert (len(run["steps"]), run["damage"], run["result"]) == (1, [], None)
    assert json.loads((tmp_path / "run" / "state.json").read_text())["step"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_termination_ends_the_process_once_the_result_is_written(
    search: Search, tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    def end(step: Step) -> None:
        os.kill(os.getpid(), number)

    with pytest.raises(SystemExit) as caught:
        search(end)
    assert caught.value.code == 128 + number
    assert f"{number.name}: what was found until then is written\n" in capsys.readouterr().err
    result = read_run(tmp_path / "run")["result"]
    assert (result["stopped"], result["num_steps"]) == ("terminated", 1)
    assert f"the best prompt until then: {result['prompt']}" in caught.value.__notes__
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_termination_while_the_outcome_is_written_comes_behind_it(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = RunDirectory.write_result

    def write(self: RunDirectory, values: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        plain(self, values)

    monkeypatch.setattr(RunDirectory, "write_result", write)
    with pytest.raises(SystemExit) as caught:
        search()
    assert caught.value.code == 128 + signal.SIGTERM
    assert read_run(tmp_path / "run")["result"]["stopped"] == "all steps done"
    assert caught.value.__notes__[0] == f"the result is in {tmp_path / 'run'}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_an_error_is_written_does_not_take_the_result(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    plain = RunDirectory.write_state

    def write(self: RunDirectory, values: Any) -> None:
        if failed:
            os.kill(os.getpid(), number)
        plain(self, values)

    def fail(step: Step) -> None:
        failed.append(step.step)
        raise MishapError("mine")

    failed: list[int] = []
    monkeypatch.setattr(RunDirectory, "write_state", write)
    with pytest.raises(MishapError):
        search(fail)
    assert read_run(tmp_path / "run")["result"]["stopped"] == "failed: MishapError: mine"


def test_an_interruption_that_a_callback_takes_for_itself(search: Search) -> None:
    taken: list[int] = []

    def take(step: Step) -> None:
        try:
            interrupt_itself()
        except KeyboardInterrupt:
            if taken:
                raise
            taken.append(step.step)

    result = search(take)
    assert taken == [0]
    assert (result.stopped, len(result.steps)) == ("interrupted", 2)


def test_a_run_in_another_thread_leaves_signals_alone(search: Search) -> None:
    found: list[Any] = []

    def look(step: Step) -> None:
        found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=lambda: found.append(search(look)))
    thread.start()
    thread.join()
    assert found[:-1] == [signal.default_int_handler] * 3
    assert found[-1].stopped == "all steps done"


LIMITS = {"max_new_tokens": 4, "max_prompt_tokens": 40}


def records_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_records_are_written_as_rows_end(
    lm: LM, rows: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, seen = evaluation._record, []
    path = tmp_path / "deep" / "records.jsonl"

    def interrupt(*arguments: Any) -> Any:
        if len(seen) == 5:
            raise KeyboardInterrupt
        seen.append(plain(*arguments))
        return seen[-1]

    monkeypatch.setattr(evaluation, "_record", interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluate(lm, rows, prompt=PROMPT, config=LIMITS, records=path)
    questions = [row["question"] for row in rows]
    written = [questions.index(record["question"]) for record in records_of(path)]
    assert len(written) == 5
    assert written == sorted(questions.index(record.question) for record in seen)


@pytest.mark.parametrize("engine", ["paged", "generate"])
def test_records_stand_in_the_order_of_the_rows(
    lm: LM, rows: list[Any], tmp_path: Path, engine: str
) -> None:
    path = tmp_path / "records.jsonl"
    config = {**LIMITS, "engine": engine, "batch_size": 5}
    report = evaluate(lm, rows, prompt=PROMPT, against="Think.", config=config, records=path)
    assert report.against is not None
    found = [(record["question"], record["predicted"]) for record in records_of(path)]
    assert found == [
        (row.question, row.predicted)
        for part in (report.evaluation, report.against)
        for row in part.rows
    ]


def test_records_that_cannot_be_made_or_are_not_needed(
    lm: LM, rows: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for path in ("", "a\0b", tmp_path / "file" / "deep.jsonl", tmp_path):
        with pytest.raises(ValueError, match="records: "):
            evaluate(lm, rows, prompt=PROMPT, records=path)
    with pytest.raises(ValueError, match="no rows"):
        evaluate(lm, [], prompt=PROMPT, records=tmp_path / "deep" / "records.jsonl")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_records_whose_folder_is_removed(
    lm: LM, rows: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = evaluation._record

    def remove(*arguments: Any) -> Any:
        shutil.rmtree(tmp_path / "deep", ignore_errors=True)
        return plain(*arguments)

    monkeypatch.setattr(evaluation, "_record", remove)
    path = tmp_path / "deep" / "records.jsonl"
    with pytest.warns(RuntimeWarning, match=r"records\.jsonl could not be written"):
        report = evaluate(lm, rows, prompt=PROMPT, config=LIMITS, records=path)
    assert report.evaluation.num_rows == 12
    assert "could not be written" in report.notes[-1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device": "cuda"}, "device: got 'cuda' beside a model loaded on cpu: move the model"),
        ({"device": "cpu:3"}, "device: got 'cpu:3' beside a model loaded on cpu"),
        ({"device": "nowhere"}, "device: got 'nowhere' beside a model loaded on cpu"),
        ({"dtype": "bfloat16"}, "dtype: got bfloat16 beside a loaded model of float32"),
    ],
)
def test_a_loaded_model_is_not_moved_in_silence(
    lm: LM,
    rows: list[Any],
    settings: dict[str, Any],
    given: dict[str, Any],
    message: str,
    tmp_path: Path,
) -> None:
    for model in (lm, (lm.model, lm.tokenizer)):
        with pytest.raises(ValueError, match=message):
            optimize(model, rows, config={**settings, **given}, run_dir=tmp_path / "run")
        with pytest.raises(ValueError, match=message):
            evaluate(model, rows, prompt=PROMPT, config={**LIMITS, **given})
    assert list(tmp_path.iterdir()) == []
    fits = {"device": "cpu", "dtype": "float32"}
    assert evaluate(lm, rows[:1], prompt=PROMPT, config={**LIMITS, **fits}).evaluation.num_rows == 1
