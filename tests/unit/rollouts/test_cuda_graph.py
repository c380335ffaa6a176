"""What is captured, what is not and why, and what an attempt leaves behind."""

import gc
import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from greater_fast.config import Config
from greater_fast.engine import RolloutRequest
from greater_fast.model.lm import LM
from greater_fast.ranks import Ranks
from greater_fast.rollouts import batch
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.choose import make_engine
from greater_fast.rollouts.steps import cuda_graph, fixed_step
from greater_fast.rollouts.steps.cuda_graph import Captured, capture
from tests.unit.rollouts.fake_cuda import FakeCUDA, wait_for_gpu

GPU = torch.device("cuda", 0)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCUDA]:
    """A GPU of no kind; every warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield FakeCUDA(monkeypatch)


class Work:
    """Writes numbers into memory: those of `values`, one launch after another."""

    def __init__(self, values: Iterator[int] | None = None) -> None:
        self.output = torch.zeros(2, 3, dtype=torch.int32)
        self.pool = torch.zeros(4, 2)[:, ::2]  # not contiguous, as a block of a pool
        self.values = values or itertools.repeat(7)
        self.streams: list[Any] = []
        self.modes: list[int] = []

    def __call__(self) -> None:
        self.streams.append(torch.cuda.current_stream())
        self.modes.append(torch.cuda.get_sync_debug_mode())
        self.output.fill_(next(self.values))
        self.pool.fill_(0.5)

    def capture(self, device: torch.device = GPU) -> Captured:
        return capture(self, device, (self.output, self.pool[:, :, None]))


def test_work_that_does_the_same_is_captured(cuda: FakeCUDA) -> None:
    work = Work()
    cuda.replays, cuda.pool_bytes = work, 30
    found = work.capture()
    assert found.graph is not None
    assert (found.reason, found.pool_bytes) == (None, 30)
    assert work.output.unique().tolist() == [7]
    assert work.modes == [1, 1, 2, 1, 1]  # two launches, a watched one, the captured one, a replay
    assert cuda.now is cuda.default
    (made,) = cuda.captures
    assert (made["mode"], made["collects"]) == ("thread_local", False)
    assert gc.isenabled()
    assert {id(stream) for stream in work.streams} == {id(made["stream"])}


def test_a_device_has_one_stream_for_captures(cuda: FakeCUDA) -> None:
    for index in (0, 1, 0):
        work = Work()
        cuda.replays = work
        assert work.capture(torch.device("cuda", index)).graph is not None
    first, second, again = (made["stream"] for made in cuda.captures)
    assert (first.device.index, second.device.index) == (0, 1)
    assert again is first


def test_nothing_is_captured_away_from_a_gpu() -> None:
    assert Work().capture(torch.device("cpu")) == Captured()


def test_one_capture_at_a_time(cuda: FakeCUDA) -> None:
    def launch() -> None:
        assert cuda_graph._ONE_AT_A_TIME.locked()

    capture(launch, GPU, ())
    assert not cuda_graph._ONE_AT_A_TIME.locked()


def test_what_waits_is_not_captured(cuda: FakeCUDA) -> None:
    found = capture(wait_for_gpu, GPU, ())
    assert found.graph is None
    assert str(found.reason).startswith("it waits for the GPU (fake_cuda.py, line ")
    assert not cuda.captures
    assert cuda.mode == 1


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_the_debug_mode_stays_as_it_was(cuda: FakeCUDA, mode: int) -> None:
    """Whatever a launch does, and though torch warns when the mode is first set."""
    cuda.mode = mode

    def fails() -> None:
        if cuda.mode == 2:
            raise RuntimeError("out of memory")

    assert cuda_graph._why_it_waits(lambda: None) is None
    assert cuda_graph._why_it_waits(wait_for_gpu)
    with pytest.raises(RuntimeError, match="out of memory"):
        cuda_graph._why_it_waits(fails)
    assert cuda.has_warned
    assert cuda.mode == mode


@pytest.mark.parametrize("collects", [True, False])
def test_a_capture_that_fails_says_why(cuda: FakeCUDA, collects: bool) -> None:
    cuda.breaks = True
    work = Work()
    (gc.enable if collects else gc.disable)()
    try:
        found = work.capture()
        assert gc.isenabled() == collects
    finally:
        gc.enable()
    assert found.graph is None
    assert found.reason == (
        "its capture ended in RuntimeError: operation not permitted when stream is capturing"
    )
    assert cuda.now is cuda.default
    assert not cuda_graph._ONE_AT_A_TIME.locked()


@pytest.mark.parametrize("knows", [True, False])
def test_after_a_capture_that_fails_the_cache_can_be_freed(cuda: FakeCUDA, knows: bool) -> None:
    """Whether or not torch itself ends what the capture has begun."""
    cuda.breaks = True
    cuda.ends_itself = knows
    assert Work().capture().graph is None
    torch.cuda.empty_cache()
    cuda.breaks = False
    work = Work()
    cuda.replays = work
    assert work.capture().graph is not None


def test_what_a_failed_capture_held_is_free_at_once(cuda: FakeCUDA) -> None:
    """Its memory, for one: without a garbage collection, which none may wait for."""
    held: list[weakref.ref[Any]] = []

    def launch() -> None:
        tensor = torch.zeros(3)
        if cuda.captures:
            held.append(weakref.ref(tensor))
            raise RuntimeError("operation not permitted when stream is capturing")

    gc.disable()
    try:
        assert capture(launch, GPU, ()).graph is None
        assert [found() for found in held] == [None]
    finally:
        gc.enable()


class OtherRank(Ranks):
    """The first of two ranks, with what the second one says."""

    def __init__(self, *says: str | None) -> None:
        super().__init__(0, 2)
        self.says = iter(says)

    def gathered(self, value: Any) -> list[Any]:
        return [value, next(self.says)]


@pytest.mark.parametrize("place", range(3))
def test_what_one_rank_cannot_capture_none_does(cuda: FakeCUDA, place: int) -> None:
    """Or a replay would wait for a rank that has none."""
    work = Work()
    replayed: list[bool] = []
    cuda.replays = lambda: (replayed.append(True), work())  # type: ignore[func-returns-value]
    says = [None] * place + ["the other one's reason"]
    found = capture(work, GPU, (work.output,), OtherRank(*says))
    assert found == Captured(reason="the other one's reason")
    assert (len(cuda.captures), len(replayed)) == [(0, 0), (1, 0), (1, 1)][place]
    assert capture(work, GPU, (work.output,), OtherRank(None, None, None)).graph is not None


def test_what_cannot_be_launched_is_an_error(cuda: FakeCUDA) -> None:
    def launch() -> None:
        raise RuntimeError("no kernel image is available")

    with pytest.raises(RuntimeError, match="no kernel image"):
        capture(launch, GPU, ())
    assert not cuda_graph._ONE_AT_A_TIME.locked()


def writes_one(work: Work) -> None:
    work()
    work.output[1, 2] = 8


@pytest.mark.parametrize(
    ("replay", "reason"),
    [
        (lambda work: None, "other bits"),
        (lambda work: work.output.fill_(7), "other bits"),  # the pool is left as it is
        (writes_one, "other bits"),
    ],
)
def test_a_replay_that_differs_is_not_used(
    cuda: FakeCUDA, replay: Callable[[Work], None], reason: str
) -> None:
    work = Work()
    cuda.replays = lambda: replay(work)
    found = work.capture()
    assert found.graph is None
    assert reason in str(found.reason)


def test_work_whose_bits_vary_anyway_is_captured(cuda: FakeCUDA) -> None:
    work = Work(itertools.count())
    cuda.replays = work
    assert work.capture().graph is not None
    cuda.replays = lambda: None
    assert work.capture().reason == "a replay does nothing"


def requests(lm: LM) -> list[RolloutRequest]:
    return [
        RolloutRequest(tuple(range(3, 3 + length)), 6, lm.end_ids, target_ids=(8,), num_scored=1)
        for length in (4, 20)
    ]


@pytest.fixture
def captures(cuda: FakeCUDA, monkeypatch: pytest.MonkeyPatch) -> FakeCUDA:
    """Steps are of a fixed shape, and captured as on a GPU, though they run on the CPU."""

    def on_gpu(launch: Callable[[], None], _: torch.device, outputs: Any, ranks: Ranks) -> Captured:
        cuda.replays = launch
        return capture(launch, GPU, outputs, ranks)

    monkeypatch.setattr(fixed_step, "capture", on_gpu)
    monkeypatch.setattr(batch, "has_fixed_steps", lambda *_: True)
    return cuda


CONFIG = Config(max_step_tokens=24, kv_cache_bytes=1 << 20)


def test_an_engine_runs_by_its_graph(lm: LM, captures: FakeCUDA) -> None:
    captures.pool_bytes = 50
    expected = RolloutEngine(lm, fixed=False).run(requests(lm))
    made, note = make_engine(lm, CONFIG)
    assert isinstance(made, RolloutEngine)
    assert note == "engine: paged, 24 tokens a step"
    facts = made.facts()
    assert (facts.has_graph, facts.no_graph, facts.graph_bytes) == (True, None, 50)
    assert (facts.attention, facts.step_tokens, facts.step_ms) == ("csrc", 24, {})
    assert (facts.batch_invariant, facts.steps) == (True, 0)
    replayed = []
    launch = captures.replays
    captures.replays = lambda: (replayed.append(1), launch())[1]
    assert [r and r.reasoning_ids for r in made.run(requests(lm))] == [
        r and r.reasoning_ids for r in expected
    ]
    assert len(replayed) == made.facts().steps > 0


def test_an_engine_without_a_graph_says_so(lm: LM, captures: FakeCUDA) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixed_step, "capture", capture)  # on the CPU there is nothing to capture
        expected = make_engine(lm, CONFIG)[0].run(requests(lm))
    captures.breaks = True
    made, note = make_engine(lm, CONFIG)
    assert isinstance(made, RolloutEngine)
    assert note == (
        "engine: paged, 24 tokens a step, without a CUDA graph: its capture ended in RuntimeError: "
        "operation not permitted when stream is capturing"
    )
    assert not made.facts().has_graph
    assert made.run(requests(lm)) == expected


def test_a_capture_is_tried_with_a_sequence(lm: LM, captures: FakeCUDA) -> None:
    """Padding alone would not show whether a graph attends; nothing of the trial stays behind."""
    seen: list[Any] = []

    def on_gpu(launch: Callable[[], None], _: Any, outputs: Any, ranks: Ranks) -> Captured:
        launch()
        results, block = (x.clone() for x in outputs)
        block[:, :, :, 0] += 1  # the first token's keys and values
        seen.append((results, block.isnan().any(), launch))
        return Captured()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixed_step, "capture", on_gpu)
        engine = RolloutEngine(lm, max_tokens=24, kv_cache_bytes=1 << 20, poisoned=True)
    results, is_poisoned, _ = seen[-1]
    assert not is_poisoned
    logits = lm.logits(lm.hidden(input_ids=torch.arange(16)[None])[0])
    assert results[0, :16].tolist() == logits.argmax(-1).tolist()
    assert not any(array.any() for array in engine._buffers.values())
