"""A disk that refuses a write, each of a run in turn, once or from then on: nothing is lost."""

import errno
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greater_fast import optimize, resume
from greater_fast.model.lm import LM
from greater_fast.runs.directory import read_run
from greater_fast.runs.input import InputError
from greater_fast.runs.result import Result
from greater_fast.search.nouns import WORK_FIELDS
from tests.e2e.faults.faulty_disk import FaultyDisk
from tests.tiny import PROMPT

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")
KINDS = (errno.ENOSPC, errno.EIO, errno.EROFS)
ALWAYS = 1 << 30
Search = Callable[..., Result]


@pytest.fixture
def search(lm: LM, rows: list[Any], settings: dict[str, Any]) -> Search:
    """A short run with a test, in a folder."""
    short = {"num_train": 3, "num_dev": 2, "max_new_tokens": 3, "num_finalists": 1}

    def call(run: Path) -> Result:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            result = optimize(
                *(lm, rows[:5]),
                test=rows[8:10],
                prompt=PROMPT,
                config={**settings, **short},
                run_dir=run,
                progress=False,
            )
        of_writing = [
            str(warning.message) for warning in told if "be written" in str(warning.message)
        ]
        problems = [note for note in result.notes if "could not be written" in note]
        assert len(of_writing) == len(problems) <= 1  # told once, in each way
        return result

    return call


def outcome(result: Result) -> Any:
    """What a run came to, but for times, its folder, and what is said of the disk."""
    values = json.loads(json.dumps(result.to_dict()))
    values["notes"] = [note for note in values["notes"] if "could not be written" not in note]
    del values["run_dir"]
    return values, [
        {name: value for name, value in step.to_dict().items() if name not in WORK_FIELDS}
        for step in result.steps
    ]


def files_of(run: Path) -> dict[str, list[Any]]:
    """The lines of a run's logs, in which nothing may be torn or missing; times left out."""
    found = {}
    for name in ("examples", "rollouts", "steps", "rows"):
        lines = (run / f"{name}.jsonl").read_text("utf-8").splitlines()
        found[name] = [json.loads(line) for line in lines]
    for step in found["steps"]:
        for name in WORK_FIELDS:
            del step[name]
    return found


def test_a_disk_that_does_not_let_an_unfinished_step_be_removed(
    search: Search, whole: Any, lm: LM, tmp_path: Path
) -> None:
    """Said in words, with the lock let go: with a disk that does, the run goes on."""
    run, (_, expected, files) = tmp_path / "whole", whole
    for name in ("rows", "steps", "rollouts"):
        with (run / f"{name}.jsonl").open("a") as file:
            file.write('{"half')
    for number in (2, 3, 3):  # behind those of the folder and its lock
        disk = FaultyDisk(run, range(number, number + 1), errno.EIO)
        with disk.used(), pytest.raises(InputError, match=r"removed there \(Input/output error\)"):
            resume(run, model=lm, progress=False)
        assert disk.writes[-1].startswith("truncate ")
    assert outcome(resume(run, model=lm, progress=False)) == expected
    assert files_of(run) == files


BEGINNING = ("mkdir whole", "make .lock", "open run.json", "write run.json")


def begun(search: Search, disk: FaultyDisk, run: Path) -> Result | None:
    """A run on a disk; None where it was refused, as its folder cannot be had: none is left."""
    try:
        with disk.used():
            return search(run)
    except InputError:
        assert not run.exists()
        return None


@pytest.fixture
def whole(search: Search, tmp_path: Path) -> tuple[list[str], Any, dict[str, list[Any]]]:
    """A run on a disk that takes all: its writes, what it comes to, and its logs."""
    run = tmp_path / "whole"
    disk = FaultyDisk(run, range(0), 0)
    found = begun(search, disk, run)
    assert found is not None
    return disk.writes, outcome(found), files_of(run)


def test_every_write_of_a_run(search: Search, whole: Any, tmp_path: Path) -> None:
    writes, expected, files = whole
    kinds = "run.json examples.jsonl rollouts.jsonl steps.jsonl state.json clock.json rows.jsonl"
    seen = {name.partition(" ")[2].lstrip(".") for name in writes}
    assert seen == {*kinds.split(), "whole", "lock", "result.json"}
    for number, write in enumerate(writes):
        run = tmp_path / str(number)
        disk = FaultyDisk(run, range(number, number + 1), KINDS[number % 3])
        found = begun(search, disk, run)
        assert (found is None) is (write in BEGINNING)
        if found is not None:
            assert outcome(found) == expected, write
            assert files_of(run) == files, write
            assert read_run(run)["damage"] == []


def test_a_disk_that_stays_full(search: Search, whole: Any, lm: LM, tmp_path: Path) -> None:
    """The result is returned; when there is room again, the run goes on with what was written."""
    writes, expected, _ = whole
    first = {write: number for number, write in reversed([*enumerate(writes)])}
    for write, number in first.items():
        run = tmp_path / f"from {number}"
        found = begun(search, FaultyDisk(run, range(number, ALWAYS), KINDS[number % 3]), run)
        if found is None:
            assert write in BEGINNING
            continue
        assert outcome(found) == expected, write
        if "claimed" in (run / "run.json").read_text("utf-8"):
            assert write.endswith(("examples.jsonl", "run.json"))
            again = search(run)  # it is free to take
        else:
            again = resume(run, model=lm, progress=False)
        assert outcome(again) == expected, write
