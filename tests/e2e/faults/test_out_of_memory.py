"""Memory that ends in any stage of a run: it goes on, or says once what to change; nothing is lost.

The limit is an imitation: a dispatch mode counts the operators that make new tensors, and refuses
one of them, or all of a stage from one on.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from greater_fast import evaluate, optimize, resume
from greater_fast.model.lm import LM
from greater_fast.runs.directory import read_run
from greater_fast.runs.models import ready
from greater_fast.runs.result import Result
from greater_fast.runs.sitting import run
from greater_fast.runs.sitting.finals import Finals
from greater_fast.search import optimizer
from greater_fast.search.meter import Meter
from greater_fast.search.nouns import WORK_FIELDS
from tests.tiny import PROMPT

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")

BEFORE = ("engine", "start")  # until the first prompt is scored there is nothing to lose
STEPS = ("propose", "gradient", "score", "select")
STAGES = (*BEFORE, *STEPS, "finals")
SHORT = {"steps": 1, "max_new_tokens": 3, "num_train": 3, "num_dev": 2, "num_finalists": 1}


class Limit(TorchDispatchMode):
    """Counts operators by stage; refuses those of `stage` from `first` on, `number` of them."""

    def __init__(self, stage: str = "", first: int = 0, number: int = 0) -> None:
        super().__init__()
        self.counts = dict.fromkeys((*STAGES, "elsewhere"), 0)
        self.now = "elsewhere"
        self._stage, self._refused = stage, range(first, first + number)

    def __torch_dispatch__(
        self, op: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        count = self.counts[self.now]
        self.counts[self.now] += 1
        if self.now == self._stage and count in self._refused:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return op(*arguments, **(options or {}))

    @contextmanager
    def within(self, stage: str) -> Iterator[None]:
        """A stage; one inside of another counts for that."""
        before, self.now = self.now, stage
        try:
            yield
        finally:
            self.now = before

    def counted(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, as a stage."""

        def wrapped(*arguments: Any, **options: Any) -> Any:
            with self.within(stage):
                return call(*arguments, **options)

        return wrapped


@pytest.fixture
def search(
    lm: LM, rows: list[Any], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """A short run under a limit, in a folder."""

    def call(limit: Limit, folder: Path, engine: str) -> Result:
        class StageMeter(Meter):
            @contextmanager
            def __call__(self, stage: str) -> Iterator[None]:
                with limit.within(stage), super().__call__(stage):
                    yield

        with monkeypatch.context() as patch:
            patch.setattr(optimizer, "Meter", StageMeter)
            patch.setattr(ready, "make_engine_of", limit.counted("engine", make_engine))
            patch.setattr(run, "start", limit.counted("start", optimizer.start))
            patch.setattr(Finals, "measure", limit.counted("finals", measure))
            with limit:
                return optimize(
                    lm,
                    rows[:8],
                    prompt=PROMPT,
                    config={**settings, **SHORT, "engine": engine},
                    run_dir=folder,
                    progress=False,
                )

    make_engine, measure = ready.make_engine_of, Finals.measure
    return call


def outcome(result: Result) -> Any:
    """What a run came to, without what it cost and what rounding may change."""
    steps = [{k: v for k, v in step.items() if k != "trials"} for step in all_bits(result)[1]]
    return result.prompt, [f.prompt for f in result.finalists], steps


def all_bits(result: Result) -> Any:
    """What a run came to, without what it cost."""
    steps = [
        {k: v for k, v in step.to_dict().items() if k not in WORK_FIELDS} for step in result.steps
    ]
    return {**result.to_dict(), "run_dir": None}, steps


@pytest.fixture(scope="module")
def untouched() -> dict[str, tuple[dict[str, int], Any]]:
    """By engine, what a run without a limit counts and comes to; filled by the first that asks."""
    return {}


@pytest.mark.parametrize(
    ("engine", "stage"),
    [*(("paged", stage) for stage in STAGES), ("generate", "start"), ("generate", "propose")],
)
def test_one_refusal_in_any_stage(
    search: Callable[..., Result],
    untouched: dict[str, Any],
    stage: str,
    engine: str,
    tmp_path: Path,
) -> None:
    """Batches are halved, and steps run again; what is neither of them takes little."""
    if engine not in untouched:
        free = Limit()
        untouched[engine] = outcome(search(free, tmp_path / "free", engine)), free.counts
    expected, counts = untouched[engine]
    assert counts[stage] > 0
    finished = []
    for part in (1, 3):
        folder = tmp_path / str(part)
        try:
            found = search(Limit(stage, counts[stage] * part // 4, 1), folder, engine)
        except (MemoryError, ValueError) as error:
            is_explained(error, stage, folder)
            continue
        assert outcome(found) == expected
        finished.append(part)
    if stage in ("start", "gradient", "select", "finals"):
        assert finished == [1, 3]
    if stage == "propose":  # first the model runs, then its logits are ranked, once
        assert 1 in finished


@pytest.mark.parametrize("stage", STAGES)
def test_memory_that_stays_away(
    search: Callable[..., Result], untouched: dict[str, Any], lm: LM, stage: str, tmp_path: Path
) -> None:
    """The run is explained and, where there is memory again, gone on with to the same bits."""
    if "bits" not in untouched:
        free = Limit()
        untouched["bits"] = all_bits(search(free, tmp_path / "free", "paged")), free.counts
    expected, counts = untouched["bits"]
    run = tmp_path / "run"
    with pytest.raises((MemoryError, ValueError)) as caught:
        search(Limit(stage, counts[stage] // 2, 1 << 30), run, "paged")
    is_explained(caught.value, stage, run)
    assert run.exists() is (stage != "engine")  # where it had not begun
    if run.exists():
        assert all_bits(resume(run, model=lm, progress=False)) == expected


def is_explained(error: BaseException, stage: str, folder: Path) -> None:
    """One message that says what to change; what was found until then is written."""
    assert re.search("lower |smaller|set less", str(error))
    assert "CUDA" not in str(error)
    if stage in BEFORE:
        return
    run = read_run(folder)
    assert run["result"]["stopped"] == f"failed: {error}"
    best = min(run["steps"], key=lambda s: s["objective"])["prompt"] if run["steps"] else PROMPT
    assert run["result"]["prompt"] == best
    assert (folder / "state.json").is_file()
    assert f"the best prompt until then: {best}" in error.__notes__


def test_an_evaluation(lm: LM, rows: list[Any], settings: dict[str, Any]) -> None:
    def call() -> Any:
        return evaluate(lm, rows[:4], prompt=PROMPT, config=settings, progress=False)

    free = Limit()
    with free:
        expected = call()
    for part in range(4):
        first = free.counts["elsewhere"] * (part + 2) // 6
        try:
            with Limit("elsewhere", first, 1):
                found = call()
        except (MemoryError, ValueError) as error:
            is_explained(error, "start", Path())
        else:
            assert dataclasses.asdict(found) == dataclasses.asdict(expected)
