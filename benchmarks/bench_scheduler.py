"""What the scheduler costs a step: plan() and commit() of 256 sequences that decode.

In C++ alone, with its heap allocations, and through the Python binding, as the engine pays it.
"""

import json
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import cmake
import ninja
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness.clock import CLOCK
from benchmarks.harness.figure import Figure
from benchmarks.harness.machine import device_name
from greater_fast.model.cpu.extension import Scheduler

MICROSECONDS = 150.0  # asked for, of a step
SOURCES = Path(__file__).resolve().parents[1] / "csrc"
BLOCK_SIZE, PROMPT, WRITTEN, WARM_UP = 16, 80, 256, 16
AGREED = 15  # of 16 words siblings say the same


class Steps(NamedTuple):
    """Steps in which all sequences decode, after the warm-up."""

    num_steps: int
    microseconds: float  # a step
    tokens: float


@pytest.fixture
def num_sequences(smoke: bool) -> int:
    """As many as are asked for, or in smoke mode 8."""
    return 8 if smoke else 256


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """csrc/checks/bench_scheduler.cpp, built."""
    build = tmp_path_factory.mktemp("bench_scheduler")
    run = str(Path(cmake.CMAKE_BIN_DIR) / "cmake")
    made_by = ["-GNinja", f"-DCMAKE_MAKE_PROGRAM={Path(ninja.BIN_DIR) / 'ninja'}"]
    configure = [run, f"-S{SOURCES}", f"-B{build}", *made_by, "-DGREATER_FAST_BENCH=ON"]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([run, "--build", str(build)], check=True, stdout=subprocess.DEVNULL)
    return build / "bench_scheduler"


@pytest.mark.benchmark(timer=CLOCK)
def test_in_cpp(
    benchmark: BenchmarkFixture, program: Path, num_sequences: int, smoke: bool
) -> None:
    """No allocation after the warm-up; then microseconds, with drafts and without."""

    def run() -> dict[str, dict[str, float]]:
        command = [str(program), str(num_sequences), "1" if smoke else "20"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found: dict[str, dict[str, float]] = json.loads(done.stdout)
        CLOCK.seconds += sum(case["microseconds"] for case in found.values()) * 1e-6
        return found

    cases = benchmark.pedantic(run, rounds=1, iterations=1)  # type: ignore[no-untyped-call]
    assert all(case["allocations"] == 0 for case in cases.values())
    slowest = max(case["microseconds"] for case in cases.values())
    Figure(
        ratio=MICROSECONDS / slowest,
        target=1.0,
        work={"num_sequences": num_sequences, "cases": cases},
        device=device_name(torch.device("cpu")),
    ).record(benchmark, smoke)


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("has_drafts", [False, True], ids=["plain", "drafts"])
def test_from_python(
    benchmark: BenchmarkFixture, num_sequences: int, has_drafts: bool, smoke: bool
) -> None:
    """All sequences say what they should; then microseconds of the two calls."""
    steps: Steps = benchmark.pedantic(  # type: ignore[no-untyped-call]
        decode, args=(num_sequences, has_drafts), rounds=1, iterations=1
    )
    Figure(
        ratio=MICROSECONDS / steps.microseconds,
        target=1.0,
        work={"num_sequences": num_sequences, "steps": steps._asdict()},
        device=device_name(torch.device("cpu")),
    ).record(benchmark, smoke)


def decode(num_sequences: int, has_drafts: bool) -> Steps:
    """Write all texts token by token, where each text is known from the start."""
    words = np.random.default_rng(0).integers(0, 1 << 15, (2, num_sequences, PROMPT + WRITTEN + 1))
    texts, others = words.astype(np.int32)
    agrees = np.arange(texts.shape[1]) % 16 < AGREED
    drafts = np.where(agrees, texts, others)
    scheduler, buffers = make_scheduler(num_sequences, has_drafts)
    for key, text in enumerate(texts.tolist()):
        scheduler.submit(
            key=key,
            prompt_ids=text[:PROMPT],
            draft_ids=drafts[key, PROMPT:].tolist() if has_drafts else [],
            max_new_tokens=WRITTEN,
        )
    seconds, num_tokens, num_steps, decoding = 0.0, 0, 0, 0
    while not scheduler.idle:
        start = time.perf_counter()
        counts = scheduler.plan()
        planned = time.perf_counter()
        keys, rows = (buffers[name][: counts[2]] for name in ("row_keys", "logit_rows"))
        argmax = texts[keys, buffers["positions"][rows] + 1]
        logprobs = np.zeros(len(argmax), np.float32)
        num_generating = len(np.unique(keys))
        answered = time.perf_counter()
        scheduler.commit(argmax, logprobs)
        committed = time.perf_counter()
        if not num_generating == scheduler.num_running == num_sequences:
            continue
        decoding += 1
        if decoding > WARM_UP:
            num_steps += 1
            num_tokens += counts[0]
            seconds += planned - start + committed - answered
    CLOCK.seconds += seconds
    for key, reasoning, *_ in scheduler.take_finished():
        assert list(reasoning) == texts[key, PROMPT:-1].tolist()
    return Steps(num_steps, 1e6 * seconds / num_steps, num_tokens / num_steps)


def make_scheduler(
    num_sequences: int, has_drafts: bool
) -> tuple[Scheduler, dict[str, NDArray[np.int32]]]:
    """A scheduler with room for all, and the buffers it plans into."""
    max_tokens, table_width = 2 * num_sequences, (PROMPT + WRITTEN) // BLOCK_SIZE
    by_token = ("tokens", "positions", "slots", "logit_rows", "targets", "target_kinds", "row_keys")
    sizes = dict.fromkeys(by_token, max_tokens) | {
        "query_starts": num_sequences + 1,
        "context_lens": num_sequences,
        "block_tables": num_sequences * table_width,
        "copies": 2 * num_sequences,
    }
    buffers: dict[str, NDArray[np.int32]] = {
        name: np.zeros(size, np.int32) for name, size in sizes.items()
    }
    scheduler = Scheduler(
        buffers,
        num_blocks=1 + num_sequences * table_width,
        block_size=BLOCK_SIZE,
        table_width=table_width,
        max_tokens=max_tokens,
        max_sequences=num_sequences,
        draft_tokens=max_tokens if has_drafts else 0,
    )
    return scheduler, buffers
