"""Several processes give what one gives, byte for byte, and end together, whatever happens."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from greater_fast.runs.directory import read_run
from greater_fast.search.nouns import WORK_FIELDS
from greater_fast.search.state import LoopState
from tests.e2e import ranks_job
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")
QUIET = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
SAME = [
    *("gemma2", "sampled", "drawn", "fewer_rows", "plain", "measured", "rows_of_first"),
    *("stored", "control", "raced", "limited", "stopped", "interrupted", "resumed", "uneven"),
]
JOB = [*SAME, "no_rows", "raising", "failing", "evaluated"]


def start(num_ranks: int, *arguments: object) -> list[subprocess.Popen[str]]:
    """A Python process a rank, as torchrun starts them, less its watch over them."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env={
                **os.environ,
                **QUIET,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(num_ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(num_ranks)
    ]


def ended(processes: Sequence[subprocess.Popen[str]], seconds: float = 1800) -> list[str]:
    """What processes printed until they ended, which they must in so many seconds."""
    deadline = time.monotonic() + seconds
    try:
        return [p.communicate(timeout=deadline - time.monotonic())[0] for p in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )


def torchrun(num_ranks: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", num_ranks]
    return python(*launcher, *arguments)


def contents(run: Path) -> dict[str, Any]:
    """What a run wrote, less what it cost and where it lies."""
    names = ("examples.jsonl", "rows.jsonl", "state.json", "result.json")
    files = {
        name: (run / name).read_text().replace(str(run), "RUN")
        for name in names
        if (run / name).exists()
    }
    steps = read_run(run)["steps"]
    for step in steps:
        for name in WORK_FIELDS:
            del step[name]
    return {**files, "steps": json.dumps(steps)}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of the runs of three ranks and of the same runs alone."""
    several, alone = (tmp_path_factory.mktemp(name) for name in ("several", "alone"))
    processes = start(3, "-m", "tests.e2e.ranks_job", several, *JOB)
    try:
        for name in JOB:
            found = ranks_job.outcome(name, alone)
            (alone / f"{name}-0.json").write_text(json.dumps(found))
    finally:
        printed = ended(processes)
    assert printed == ["", "", ""]
    assert [process.returncode for process in processes] == [0, 0, 0]
    return several, alone


def outcomes(folder: Path, name: str) -> list[Any]:
    """What a run came to on each rank."""
    files = sorted(folder.glob(f"{name}-*.json"))
    return [json.loads(file.read_text().replace(str(folder), "FOLDER")) for file in files]


@pytest.mark.parametrize("name", SAME)
def test_ranks_give_what_one_process_gives(job: tuple[Path, Path], name: str) -> None:
    several, alone = job
    (expected,) = outcomes(alone, name)
    assert "error" not in expected
    assert outcomes(several, name) == [expected] * 3
    assert contents(several / name) == contents(alone / name)
    run = read_run(several / name)
    assert run["run"]["num_ranks"] == 3
    ends = {"stopped": "stopped by on_step", "interrupted": "interrupted"}
    assert run["result"]["stopped"] == ends.get(name, "all steps done")


def test_some_candidate_was_given_up(job: tuple[Path, Path]) -> None:
    trials = [trial for step in read_run(job[0] / "gemma2")["steps"] for trial in step["trials"]]
    assert {trial["objective"] is None for trial in trials} == {True, False}


@pytest.mark.parametrize("name", ["stored", "drawn"])
def test_some_row_had_right_and_wrong_reasonings(job: tuple[Path, Path], name: str) -> None:
    assert any(step["num_contrasted"] for step in read_run(job[0] / name)["steps"])


def test_an_evaluation_is_that_of_one_process(job: tuple[Path, Path]) -> None:
    several, alone = job
    assert outcomes(several, "evaluated") == outcomes(alone, "evaluated") * 3
    records = [folder / "evaluated" / "records.jsonl" for folder in job]
    assert records[0].read_text() == records[1].read_text()


@pytest.mark.parametrize(
    ("name", "rank", "message"),
    [("raising", 0, "of mine"), ("failing", 2, "of the last")],
)
def test_an_error_of_one_rank_ends_all(
    job: tuple[Path, Path], name: str, rank: int, message: str
) -> None:
    several, alone = job
    (expected,) = outcomes(alone, name)
    for number, found in enumerate(outcomes(several, name)):
        if number == rank:
            assert (found["error"], found["message"]) == ("MishapError", message)
        else:  # the class cannot be made again
            assert (found["error"], found["message"]) == ("RuntimeError", f"MishapError: {message}")
            assert f"on rank {rank}" in found["notes"]
    run = read_run(several / name)
    assert len(run["steps"]) == len(read_run(alone / name)["steps"]) > 0
    assert run["result"]["stopped"].endswith(f"MishapError: {message}")
    assert message in (several / name / "traceback.txt").read_text()
    assert any("the best prompt until then" in note for note in expected["notes"])


def test_input_that_rank_0_refuses(job: tuple[Path, Path]) -> None:
    several, alone = job
    expected = {**outcomes(alone, "no_rows")[0], "notes": ["on rank 0"]}
    first, *others = outcomes(several, "no_rows")
    assert first == {**expected, "notes": []}
    assert first["error"] == "InputError"
    assert others == [expected] * 2
    assert not (several / "no_rows").exists()


def test_a_rank_that_is_killed_under_torchrun(tmp_path: Path) -> None:
    done = torchrun(3, "-m", "tests.e2e.ranks_job", tmp_path, "killed")
    assert done.returncode == 1
    assert "exitcode  : 9" in done.stderr
    assert_kept(tmp_path / "killed", "terminated|failed: RankLostError: .*")


def test_a_rank_that_hangs(tmp_path: Path) -> None:
    processes = start(2, "-m", "tests.e2e.ranks_job", tmp_path, "hanging")
    while processes[0].poll() is None:
        time.sleep(0.1)
    processes[1].kill()
    ended(processes)
    assert_kept(tmp_path / "hanging", "failed: RankLostError: rank 0 of 2 lost another one, .*")


def assert_kept(run: Path, stopped: str) -> None:
    """What rank 0 knew when it lost the others is written."""
    found = read_run(run)
    assert found["damage"] == []
    assert re.fullmatch(stopped, found["result"]["stopped"])
    assert len(found["steps"]) == found["result"]["num_steps"] == 1
    assert LoopState.from_dict(json.loads((run / "state.json").read_text())).step == 1


@pytest.mark.model
def test_the_command_under_torchrun_is_the_command(tmp_path: Path) -> None:
    command = ["optimize", "--model", "smollm2-135m", "--task", "boolean_expressions"]
    numbers = {"num-train": 3, "num-dev": 2, "max-new-tokens": 6, "steps": 1, "num-finalists": 1}
    command += [text for name, value in numbers.items() for text in (f"--{name}", str(value))]
    command += ["--dtype", "float32", "--device", "cpu"]
    done = torchrun(2, "-m", "greater_fast", *command, "--run-dir", tmp_path / "several")
    assert done.returncode == 0, done.stderr
    alone = python("-m", "greater_fast", *command, "--run-dir", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    assert contents(tmp_path / "several") == contents(tmp_path / "alone")
    assert done.stdout == alone.stdout.replace(str(tmp_path / "alone"), str(tmp_path / "several"))
    assert done.stderr.count("step 1 of 1") == 1
    assert read_run(tmp_path / "several")["run"]["num_ranks"] == 2


def test_input_that_is_refused_is_told_once(tmp_path: Path) -> None:
    command = ["optimize", "--model", "nowhere", "--train", tmp_path / "none.jsonl"]
    processes = start(2, "-m", "greater_fast", *command, "--run-dir", tmp_path / "run")
    first, second = ended(processes)
    assert [process.returncode for process in processes] == [2, 2]
    assert first.count("none.jsonl") == 1
    assert second == ""
    assert not (tmp_path / "run").exists()
