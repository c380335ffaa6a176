"""How many tokens a step has: measured where a GPU is, for the sequences that there will be."""

import random
from typing import Any

import pytest
import torch

from greater_fast import api
from greater_fast.config import Config
from greater_fast.model.lm import LM
from greater_fast.rollouts import batch, distributed
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.choose import make_engine
from greater_fast.rollouts.steps import step_size
from greater_fast.rollouts.steps.row_reader import RowReader
from greater_fast.rollouts.steps.step_size import best_size, measure_step_ms
from tests.tiny import PROMPT
from tests.unit.hash_language import VOCAB, Request
from tests.unit.rollouts.scheduling.scheduler_model import World

KNEE = {64: 8.5, 128: 9.2, 192: 10.2, 256: 11.2, 512: 18.0}


@pytest.mark.parametrize(
    ("step_ms", "num_sequences", "size"),
    [
        (KNEE, 150, 192),  # in one wave
        (KNEE, None, 192),  # the settings' defaults: 3 prompts on 50 rows
        (KNEE, 64, 64),
        (KNEE, 65, 128),
        (KNEE, 1, 64),
        (KNEE, 250, 256),
        (KNEE, 10_000, 512),
        ({64: 5.0, 128: 10.0, 192: 15.0}, 150, 64),  # no size is cheaper than its tokens
        ({64: 5.0, 128: 10.0, 192: 14.0}, 150, 192),
        ({128: 9.0}, 1000, 128),
        # Equals, and what is nearly equal: the smallest, whatever the last digits say.
        ({64: 5.0, 128: 5.0, 256: 5.0}, 50, 64),
        ({64: 5.0, 128: 4.9, 256: 5.1}, 50, 64),
        ({64: 5.0, 128: 4.7, 256: 5.1}, 50, 128),
    ],
)
def test_the_fewest_waves_times_milliseconds(
    step_ms: dict[int, float], num_sequences: int | None, size: int
) -> None:
    assert best_size(step_ms, num_sequences) == size


def test_sequences_of_one_length_take_whole_waves() -> None:
    """Why the choice counts waves: one slot too few costs as many steps as half the slots."""
    rng, length, taken = random.Random(0), 30, {}
    requests = [
        Request(key, tuple(rng.randrange(VOCAB) for _ in range(4)), length) for key in range(30)
    ]
    for size in (16, 29, 32, 64):
        world = World(num_blocks=400, max_tokens=size, fixed_tokens=True)
        world.run(*requests)
        taken[size] = world.steps
    assert 2 * length <= taken[29] <= taken[16] < 2.7 * length
    assert length <= taken[64] <= taken[32] < 1.4 * length


class FakeStep:
    """Takes as long as the test says; memory may end when it is made, or at its n-th run."""

    made: list["FakeStep"]
    clock: float
    ends: dict[int, int]  # by size: at which run

    def __init__(self, lm: LM, cache: Any, buffers: Any, backend: str, reader: RowReader) -> None:
        self.size, self.reader = len(buffers.host["tokens"]), reader
        self.width = buffers.host["block_tables"].shape[1]
        self.num_runs = 0
        self.made.append(self)
        self._end()

    def run(self, counts: Any) -> None:
        assert counts == (self.size, 0, 0, 0, self.size)
        self.num_runs += 1
        self._end()
        # On a GPU that has just been woken everything takes longer.
        FakeStep.clock += 1e-3 * (100 + self.size) * (10 if self.num_runs < 5 else 1)

    def _end(self) -> None:
        if self.ends.get(self.size) == self.num_runs:
            raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[FakeStep]:
    FakeStep.made, FakeStep.clock, FakeStep.ends = [], 0.0, {}
    monkeypatch.setattr(step_size, "FixedStep", FakeStep)
    monkeypatch.setattr(step_size.time, "perf_counter", lambda: FakeStep.clock)
    return FakeStep.made


def reader(lm: LM) -> RowReader:
    return RowReader(1.0, None, lm.device)


def test_sizes_take_turns_on_a_warm_clock(lm: LM, steps: list[FakeStep]) -> None:
    found = measure_step_ms(lm, "csrc", reader(lm), 3)
    assert found == pytest.approx({size: 100 + size for size in range(64, 513, 64)})
    assert len({step.num_runs for step in steps}) == 1
    assert {step.width for step in steps} == {3}


@pytest.mark.parametrize("run", [0, 1, 5])
def test_a_size_without_memory_is_left_out(lm: LM, steps: list[FakeStep], run: int) -> None:
    FakeStep.ends = dict.fromkeys((448, 512), run)
    assert list(measure_step_ms(lm, "csrc", reader(lm), 1)) == list(range(64, 448, 64))


def test_memory_for_no_size_is_an_error(lm: LM, steps: list[FakeStep]) -> None:
    FakeStep.ends = dict.fromkeys(step_size.SIZES, 1)
    with pytest.raises(MemoryError):
        measure_step_ms(lm, "csrc", reader(lm), 1)


def test_other_errors_are_not_taken_for_memory(
    lm: LM, steps: list[FakeStep], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(FakeStep, "run", fail)
    with pytest.raises(RuntimeError, match="no kernel image"):
        measure_step_ms(lm, "csrc", reader(lm), 1)


def test_an_engine_measures_what_it_will_run(
    lm: LM, steps: list[FakeStep], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its sampling and its tables; not where M is given, or steps have no fixed shape."""
    given: dict[str, Any] = {"kv_cache_bytes": 1 << 20, "longest_sequence": 50}
    for options in ({}, {"fixed": True}, {"fixed": False}):
        assert RolloutEngine(lm, **given, **options).max_tokens == 256
    monkeypatch.setattr(batch, "has_fixed_steps", lambda *_: True)
    assert RolloutEngine(lm, max_tokens=32, **given).facts().step_ms == {}
    assert not RolloutEngine(lm, fixed=False, **given).step_ms
    assert not steps
    engine = RolloutEngine(lm, sampling_temperature=1.0, num_sequences=70, **given)
    assert engine.max_tokens == engine.facts().step_tokens == 128
    assert list(engine.facts().step_ms) == list(step_size.SIZES)
    assert {step.reader.sampler for step in steps} == {engine._sampler}
    assert {step.width for step in steps} == {4}


def test_steps_can_be_measured(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_size, "SIZES", range(16, 49, 16))
    found = measure_step_ms(lm, "csrc", reader(lm), 2)
    assert list(found) == [16, 32, 48]
    assert min(found.values()) > 0


def test_the_engine_is_told_how_many_sequences_there_are(
    lm: LM,
    rows: list[Any],
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    asked: list[int | None] = []

    class StopError(Exception):
        pass

    def stop(_: LM, config: Config, longest: int, num_sequences: int) -> None:
        asked.append(num_sequences)
        raise StopError

    monkeypatch.setattr(distributed, "make_engine", stop)
    many = {**settings, "num_train": 4, "num_dev": 2, "shortlist_size": 3}
    few = {**settings, "num_train": 2, "num_dev": 8, "shortlist_size": 1}
    for number, config in enumerate((many, few)):
        with pytest.raises(StopError):
            api.optimize(
                *(lm, rows[:4], rows[4:]),
                prompt=PROMPT,
                config=config,
                run_dir=tmp_path / f"run{number}",
            )
    with pytest.raises(StopError):
        api.evaluate(lm, rows[:7], prompt=PROMPT, against="Think.", config=settings)
    assert asked == [12, 8, 7]


def test_without_a_number_it_is_the_shortlist_on_all_rows(
    lm: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    made = RolloutEngine

    def record(*args: Any, num_sequences: int, **options: Any) -> RolloutEngine:
        asked.append(num_sequences)
        return made(*args, **options)

    monkeypatch.setattr("greater_fast.rollouts.choose.RolloutEngine", record)
    for given in ((), (100, 7)):
        make_engine(lm, Config(shortlist_size=2, num_train=9, kv_cache_bytes=1 << 20), *given)
    assert asked == [18, 7]
