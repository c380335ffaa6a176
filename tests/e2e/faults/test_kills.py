"""Runs that are ended at random moments, again and again, come to the bits of one in one go.

Moments are drawn by a seed: `KILL_SEED` in the environment sets another.
"""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from greater_fast.search.nouns import WORK_FIELDS
from tests.e2e.faults.nursery import ROOT, Nursery
from tests.tiny import boolean_rows

SEED = int(os.environ.get("KILL_SEED", "0"))
SEARCH = {
    "steps": 3,
    "accept": "best",
    "gradient": "both",
    "max_new_tokens": 6,
    "max_prompt_tokens": 40,
    "num_train": 6,
    "num_dev": 4,
    "num_finalists": 2,
    "num_proposal_examples": 2,
    "num_draws": 3,
}
Command = Callable[[Path], list[str]]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as started:
        yield started


@pytest.fixture(scope="module")
def command(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The command line of a run in a folder, for the first time and for every other."""
    folder, rows = tmp_path_factory.mktemp("rows"), boolean_rows(15)
    for name, part in (("train", rows[:12]), ("test", rows[12:])):
        lines = [json.dumps({"question": question, "answer": answer}) for question, answer in part]
        (folder / name).with_suffix(".jsonl").write_text("\n".join(lines))

    def call(run: Path) -> list[str]:
        return [
            *("optimize", "--resume", "--run-dir", str(run), "--model", str(model_folder)),
            *("--train", f"{folder}/train.jsonl", "--test", f"{folder}/test.jsonl", "--json"),
            *(f"--{name.replace('_', '-')}={value}" for name, value in SEARCH.items()),
        ]

    return call


class Whole:
    """A run in one go: what it leaves, and the seconds it takes."""

    def __init__(self, nursery: Nursery, command: Command, folder: Path) -> None:
        done = nursery.run(command(folder / "whole"), folder)
        assert done.status == 0, done.err
        self.left, self.seconds = left_in(folder / "whole"), done.seconds


@pytest.fixture(scope="module")
def whole(nursery: Nursery, command: Command, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(nursery, command, tmp_path_factory.mktemp("whole"))


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def left_in(run: Path) -> dict[str, Any]:
    """All that a run leaves, but for times and for where it lies."""
    left: dict[str, Any] = {
        name: json.loads((run / f"{name}.json").read_text("utf-8")) for name in ("result", "state")
    }
    del left["result"]["run_dir"]
    left |= {name: lines(run / f"{name}.jsonl") for name in ("examples", "rollouts", "steps")}
    for step in left["steps"]:
        for name in WORK_FIELDS:
            del step[name]
    rows = lines(run / "rows.jsonl")
    left["rows"] = {(row["split"], row["prompt"], row["row"]): row for row in rows}
    assert len(left["rows"]) == len(rows)  # none is evaluated twice
    return left


def how_far(run: Path) -> str:
    """The part of a run that it had come to."""
    rows, state = (
        path.read_text("utf-8") if path.exists() else ""
        for path in (run / "rows.jsonl", run / "state.json")
    )
    if '"split": "test"' in rows:
        return "test"
    if rows or '"ended"' in state:
        return "finals"
    return "search" if state else "start"


@pytest.mark.parametrize(
    ("numbers", "most"),
    [([signal.SIGKILL], 60), ([signal.SIGTERM, signal.SIGHUP, signal.SIGINT], 20)],
    ids=["killed", "ended"],
)
def test_moments_of_all_kinds(
    nursery: Nursery,
    command: Command,
    whole: Whole,
    tmp_path: Path,
    numbers: list[signal.Signals],
    most: int,
) -> None:
    """Ended and gone on with until it is done, in new folders until it was ended often enough."""
    drawn, parts = random.Random(SEED), Counter[str]()
    while parts.total() < most:
        run, num_held = tmp_path / str(parts.total()), 0
        seconds = whole.seconds  # that a start takes longer than is no end of this
        while True:
            given = (drawn.uniform(0, seconds), drawn.choice(numbers))
            done = nursery.run(command(run), tmp_path, [given])
            if done.status == 0:
                break
            if "is at work on the run" in done.err:
                num_held += 1  # by git, which it had begun, a moment longer
                assert num_held < 100
                continue
            assert done.status in (-given[1], 128 + given[1]), done.err
            parts[how_far(run)] += 1
            seconds *= 1.1
        assert left_in(run) == whole.left


def test_in_every_part(nursery: Nursery, command: Command, whole: Whole, tmp_path: Path) -> None:
    """Killed once, in the midst of every seventh write of a run in one go."""
    parts = Counter[str]()
    for number in itertools.count(random.Random(SEED).randrange(7), 7):
        run = tmp_path / str(number)
        if nursery.run(command(run), tmp_path, killed_at=number).status == 0:
            break
        parts[how_far(run)] += 1
        assert nursery.run(command(run), tmp_path).status == 0
        assert left_in(run) == whole.left
    assert set(parts) == {"start", "search", "finals", "test"}


def test_in_the_midst_of_a_write(
    nursery: Nursery, command: Command, whole: Whole, tmp_path: Path
) -> None:
    """Half of it may be on the disk: in a row, of one run, writes of all kinds."""
    drawn, run, num_killed = random.Random(SEED), tmp_path / "run", 0
    while num_killed < 30:
        done = nursery.run(command(run), tmp_path, killed_at=drawn.randrange(40))
        if done.status == 0:
            assert left_in(run) == whole.left
            run = tmp_path / f"run after {num_killed}"
        else:
            assert done.status == -signal.SIGKILL, done.err
            num_killed += 1
    assert nursery.run(command(run), tmp_path).status == 0
    assert left_in(run) == whole.left


def test_processes_of_their_own(
    nursery: Nursery, command: Command, whole: Whole, tmp_path: Path
) -> None:
    drawn, run = random.Random(SEED), tmp_path / "run"
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-m", "greater_fast", *command(run)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        process.stderr.readline()  # it has begun
        time.sleep(drawn.uniform(0, whole.seconds))
        process.kill()
        process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0)
    assert nursery.run(command(run), tmp_path).status == 0
    assert left_in(run) == whole.left
