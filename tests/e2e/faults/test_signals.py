"""Command lines that a signal ends, or that have lost their streams: status, message, files."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from greater_fast.runs.directory import read_run
from tests.e2e.faults.nursery import Ended, Nursery

WRITTEN = "greater_fast.runs.directory.RunDirectory.write_result"
LOADED = "transformers.AutoModelForCausalLM.from_pretrained"
LONG = ["--steps", "1000", "--no-stop-unchanged"]  # longer than any test waits
Start = Callable[..., Ended]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as started:
        yield started


@pytest.fixture
def start(
    nursery: Nursery, model_folder: Path, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> Start:
    """A run in `run`, with signals at times, or as soon as a file is there."""
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    limits = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]

    def call(*arguments: object, signals: Any = (), once: str | None = None, **more: Any) -> Ended:
        given = ["--model", model_folder, "--train", data, "--run-dir", tmp_path / "run", *limits]
        seen = tmp_path / "run" / once if once else None
        return nursery.run(["optimize", *given, *arguments], tmp_path, signals, seen, **more)

    return call


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_search(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    done = start(*LONG, signals=[(0.1, number)], once="steps.jsonl")
    run = read_run(tmp_path / "run")
    assert (done.status, done.out) == (128 + number, "")
    assert done.err.splitlines()[-1] == (
        f"greater-fast: ended by {number.name}; the best prompt until then: "
        f"{run['result']['prompt']}; what the run wrote is in {tmp_path / 'run'}: greater-fast "
        "resume goes on with it"
    )
    assert "Traceback" not in done.err
    assert (run["result"]["stopped"], run["damage"]) == ("terminated", [])
    assert run["result"]["num_steps"] == len(run["steps"]) > 0


def test_ctrl_c_in_the_search(start: Start, tmp_path: Path) -> None:
    done = start(*LONG, signals=[(0.1, signal.SIGINT)], once="steps.jsonl")
    result = read_run(tmp_path / "run")["result"]
    assert (done.status, result["stopped"]) == (130, "interrupted")
    assert f"best prompt: {result['prompt']}\n" in done.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_model_loads(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    done = start(behind=(LOADED, number))
    how = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert (done.status, done.out) == (128 + number, "")
    assert done.err.splitlines()[-1] == f"greater-fast: {how} before the first score"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_as_the_result_is_written_is_told_where_it_is(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    done = start("--steps", "0", behind=(WRITTEN, number))
    assert read_run(tmp_path / "run")["result"]["stopped"] == "all steps done"
    assert done.status == 128 + number
    assert done.err.splitlines()[-1].startswith(
        f"greater-fast: ended by {number.name}; the result is in {tmp_path / 'run'}"
    )


def test_ctrl_c_as_the_result_is_written_has_nothing_left_to_stop(
    start: Start, tmp_path: Path
) -> None:
    done = start("--steps", "0", behind=(WRITTEN, signal.SIGINT))
    result = read_run(tmp_path / "run")["result"]
    assert (done.status, result["stopped"]) == (0, "all steps done")
    assert f"best prompt: {result['prompt']}\n" in done.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("seconds", [0, 0.005])
def test_a_signal_behind_the_work_is_told_where_the_result_is(
    start: Start, tmp_path: Path, number: signal.Signals, seconds: float
) -> None:
    """One that comes as the outcome is printed, or when all is done."""
    done = start("--steps", "0", signals=[(seconds, number)], once="result.json")
    how = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    last = done.err.splitlines()[-1]
    assert read_run(tmp_path / "run")["result"]["stopped"] == "all steps done"
    assert done.status in (0, 128 + number, -number)  # the last: behind all that is told
    if done.status > 0:
        told = f"greater-fast: {how}; the result is in {tmp_path / 'run'}"
        assert last.startswith(told) or last == f"greater-fast: {how}"


@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 1, 2]])
def test_streams_that_were_closed_at_the_start(
    start: Start, tmp_path: Path, closed: list[int]
) -> None:
    """What is printed goes where it should or nowhere: into no file of the run, for one."""
    done = start("--json", closed=closed)
    run = read_run(tmp_path / "run")
    assert (done.status, run["damage"], len(run["steps"])) == (0, [], 2)
    assert bool(done.err) is (2 not in closed)
    assert (json.loads(done.out) if done.out else None) == (None if 1 in closed else run["result"])
