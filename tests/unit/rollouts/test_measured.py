"""An answer is measured once, where it was generated, and its worth travels with the rollout."""

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from greater_fast.engine import OnFinished, Rollout, RolloutRequest
from greater_fast.model.kv_cache import block_bytes
from greater_fast.ranks import ALONE, Ranks
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.distributed import DistributedEngine
from greater_fast.rollouts.outcome import measured
from greater_fast.rollouts.plain import PlainRolloutEngine
from tests.cases import FakeEngine, as_engine, layouts_of, tiny_lm
from tests.threads import on_threads


class Measures:
    """A measure for each of several requests, and how often it was called."""

    def __init__(self) -> None:
        self.calls = Counter[int]()
        self._lock = threading.Lock()

    def of(self, number: int) -> Callable[[tuple[int, ...]], float]:
        def measure(answer_ids: tuple[int, ...]) -> float:
            with self._lock:
                self.calls[number] += 1
            return worth(number, answer_ids)

        return measure


def worth(number: int, answer_ids: Sequence[int]) -> float:
    return (number + sum(answer_ids)) % 101 / 101


def requests_of(measures: Measures | None, num_groups: int = 2) -> list[RolloutRequest]:
    """Rows of a tiny model, each with two prompts."""
    layouts = layouts_of(tiny_lm(), 3)
    requests = [
        RolloutRequest(
            prompt_ids=layouts.context_ids(row, (*layouts.prompt_ids[:-1], 17 + group)),
            max_new_tokens=8,
            end_ids=tiny_lm().end_ids,
            prompt_span=layouts.prompt_span(row, layouts.prompt_ids),
            target_ids=layouts.extractor_ids,
            max_answer_tokens=3,
            group=group,
        )
        for group in range(num_groups)
        for row in range(len(layouts))
    ]
    if measures is None:
        return requests
    return [dataclasses.replace(r, measure=measures.of(n)) for n, r in enumerate(requests)]


ENGINES: dict[str, Callable[[], Any]] = {
    "paged": lambda: RolloutEngine(tiny_lm(), kv_cache_bytes=1 << 22),
    "few blocks": lambda: RolloutEngine(
        tiny_lm(), kv_cache_bytes=13 * block_bytes(tiny_lm()), share_prefixes=False
    ),
    "generate": lambda: PlainRolloutEngine(tiny_lm(), 2),
}


@pytest.mark.parametrize("name", ENGINES)
def test_each_answer_is_measured_once(name: str) -> None:
    measures, engine = Measures(), ENGINES[name]()
    told: list[float | None] = []

    def finished(number: int, rollout: Rollout) -> list[int]:
        told.append(rollout.metric)
        return []

    requests = requests_of(measures)
    found = engine.run(requests, finished)
    assert name != "few blocks" or engine.statistics["preemptions"] > 0
    assert measures.calls == dict.fromkeys(range(len(requests)), 1)
    for number, rollout in enumerate(found):
        assert rollout.answer_ids
        assert rollout.metric == worth(number, rollout.answer_ids)
    assert sorted(told) == sorted(rollout.metric for rollout in found)
    without = ENGINES[name]().run(requests_of(None))
    assert [dataclasses.replace(rollout, metric=None) for rollout in found] == without


@pytest.mark.parametrize("name", ["paged", "generate"])
def test_of_a_dropped_group_none_is_measured_twice(name: str) -> None:
    measures = Measures()
    found = ENGINES[name]().run(requests_of(measures), lambda number, rollout: [0])
    assert set(measures.calls.values()) == {1}
    assert {n for n, rollout in enumerate(found) if rollout} == set(measures.calls)


def test_a_batch_that_runs_out_of_memory_is_measured_when_it_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, measures = PlainRolloutEngine._run_batch, Measures()

    def run(self: PlainRolloutEngine, batch: Sequence[RolloutRequest]) -> list[Rollout]:
        found = own(self, batch)
        if len(batch) > 1:
            raise torch.OutOfMemoryError("as if")
        return found

    monkeypatch.setattr(PlainRolloutEngine, "_run_batch", run)
    PlainRolloutEngine(tiny_lm(), 4).run(requests_of(measures, 1))
    assert measures.calls == dict.fromkeys(range(3), 1)


class Measuring(FakeEngine):
    """A stand-in that measures as engines do."""

    def run(
        self, requests: Sequence[RolloutRequest], on_finished: OnFinished | None = None
    ) -> list[Rollout | None]:
        def finished(number: int, rollout: Rollout) -> Sequence[int]:
            done[number] = measured(requests[number], rollout, self.lm.ranks)
            return tuple(on_finished(number, done[number])) if on_finished else ()

        done: dict[int, Rollout] = {}
        super().run(requests, finished)
        return [done.get(number) for number in range(len(requests))]


def asked(measures: Measures) -> list[RolloutRequest]:
    """Requests of nine rows and two groups, each rank's with measures of its own."""
    return [
        RolloutRequest(
            *((1000 + row, group), 5, frozenset()),
            prompt_span=(1, 2),
            group=group,
            measure=measures.of(9 * group + row),
        )
        for group in range(2)
        for row in range(9)
    ]


def ranks_engine(ranks: Ranks) -> DistributedEngine:
    engine = Measuring(lambda prompt, row: Rollout((row,), answer_ids=(row, *prompt)))
    engine.lm.lock, engine.lm.ranks = threading.RLock(), ALONE
    engine.num_forward_tokens = 0  # type: ignore[attr-defined]
    return DistributedEngine(as_engine(engine), ranks)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ranks_measure_their_own_rows_and_have_all(size: int) -> None:
    measures = [Measures() for _ in range(size)]

    def run(ranks: Ranks) -> list[float | None]:
        told: dict[int, float | None] = {}

        def finished(number: int, rollout: Rollout) -> list[int]:
            told[number] = rollout.metric
            return []

        found = ranks_engine(ranks).run(asked(measures[ranks.rank]), finished)
        values = [rollout.metric for rollout in found if rollout]
        assert [told[number] for number in range(len(values))] == values
        return values

    expected = [worth(9 * group + row, (row, group)) for group in range(2) for row in range(9)]
    assert on_threads(size, run) == [expected] * size
    total = Counter[int]()
    for own in measures:
        total += own.calls
    assert total == dict.fromkeys(range(18), 1)


def test_ranks_that_share_a_model_ask_the_first() -> None:
    measures = [Measures() for _ in range(3)]

    def run(ranks: Ranks) -> Rollout:
        request = RolloutRequest((1,), 2, frozenset(), measure=measures[ranks.rank].of(7))
        return measured(request, Rollout((), answer_ids=(5, 6)), ranks)

    found = on_threads(3, run)
    assert found == [Rollout((), answer_ids=(5, 6), metric=worth(7, (5, 6)))] * 3
    assert [sum(own.calls.values()) for own in measures] == [1, 0, 0]


def test_what_a_metric_makes_of_a_row() -> None:
    plain = [Rollout((), (-1.0,), (hit,)) for hit in (True, False)]
    assert [(r.is_wrong, r.error) for r in plain] == [(False, 0), (True, 1)]
    assert {type(r.error) for r in plain} == {int}
    graded = [Rollout((), metric=value) for value in (0.0, 0.25, 0.5, 1.0)]
    assert [r.error for r in graded] == [1.0, 0.75, 0.5, 0.0]
    assert [r.is_wrong for r in graded] == [True, True, False, False]
    assert {r.answer_loss for r in graded} == {0.0}
