"""An engine over ranks gives what the one it wraps gives: here the ranks are threads."""

import math
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from greater_fast.config import Config
from greater_fast.engine import Engine, Rollout, RolloutRequest
from greater_fast.ranks import ALONE, Ranks
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.distributed import DistributedEngine, make_engine_of
from greater_fast.search.nouns import TIE, Scored
from greater_fast.search.selection import score_prompts
from tests.cases import FakeEngine, as_engine, made_up, small_config, table_layouts, tiny_lm
from tests.threads import on_threads

PROMPTS = [(1, 2, 3), (1, 5, 3), (1, 6, 3)]
Outcomes = dict[tuple[tuple[int, ...], int], Rollout]


def fake(outcomes: Outcomes, batch_size: int = 4) -> FakeEngine:
    """Answers from a table, on a model of its own."""
    device = torch.device("cpu")
    lm = SimpleNamespace(end_ids=frozenset([9]), device=device, lock=threading.RLock(), ranks=ALONE)
    engine = FakeEngine(lambda prompt, row: outcomes[prompt, row], batch_size, lm=lm)
    engine.num_forward_tokens = 0  # type: ignore[attr-defined]
    return engine


def over(ranks: Ranks, engine: FakeEngine, rows_together: int = 1) -> Engine:
    return DistributedEngine(as_engine(engine), ranks, rows_together)


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, Outcomes]:
    num_rows = draw(st.integers(1, 9))
    values = st.sampled_from([0.0, 1e-9, 0.1, 0.3, 1.0, 2.5])
    outcomes = {
        (prompt, row): made_up(draw(st.booleans()), -draw(values), draw(values))
        for prompt in PROMPTS
        for row in range(num_rows)
    }
    return num_rows, outcomes


@settings(deadline=None, max_examples=60)
@given(
    tables(),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from(["error", "loss"]),
    st.sampled_from([0.0, 0.2, 0.5, 1.0, math.inf]),
)
def test_pruning_is_that_of_all_rows_on_every_rank(
    table: tuple[int, Outcomes], size: int, batch_size: int, objective: str, bound: float
) -> None:
    """A candidate is given up exactly if its objective over all rows is over the bound."""
    num_rows, outcomes = table
    config = small_config(objective=objective)
    layouts = table_layouts(num_rows)

    def scored(engine: Engine, limit: float) -> list[Scored | None]:
        return score_prompts(engine, layouts, PROMPTS, config, limit)

    whole = scored(as_engine(fake(outcomes)), math.inf)
    expected = [s if s and s.objective.value(config) <= bound + TIE else None for s in whole]
    assert scored(as_engine(fake(outcomes, batch_size)), bound) == expected
    engines = [fake(outcomes, batch_size) for _ in range(size)]
    found = on_threads(size, lambda ranks: scored(over(ranks, engines[ranks.rank]), bound))
    assert found == [expected] * size
    ran = [key for engine in engines for key in engine.calls]
    assert len(ran) == len(set(ran))  # nothing twice


def requests_of(num_rows: int, num_groups: int) -> list[RolloutRequest]:
    return [
        RolloutRequest((1000 + row, group), 5, frozenset(), prompt_span=(1, 2), group=group)
        for group in range(num_groups)
        for row in range(num_rows)
    ]


class Echo(FakeEngine):
    """Rollouts and logits that name what was asked; each context's stored length is given."""

    def __init__(self, stored: Callable[[Sequence[int]], int] = lambda ids: 0) -> None:
        lm = SimpleNamespace(lock=threading.RLock(), device=torch.device("cpu"), ranks=ALONE)
        super().__init__(lambda prompt, row: Rollout((row, *prompt)), lm=lm)
        self.num_forward_tokens, self.asked, self._stored = 0, list[tuple[int, ...]](), stored

    def next_logits(self, contexts: Sequence[Sequence[int]]) -> torch.Tensor:
        assert contexts
        self.asked += map(tuple, contexts)
        return torch.tensor([[float(sum(ids)), len(ids)] for ids in contexts])

    def prefix_kv(self, ids: Sequence[int]) -> Any:
        return SimpleNamespace(num_tokens=self._stored(ids)) if self._stored(ids) else None


def test_others_make_the_engine_of_the_first() -> None:
    def made(ranks: Ranks) -> int:
        config = Config(kv_cache_bytes=1 << 20, max_step_tokens=(48, 64)[ranks.rank])
        engine, _ = make_engine_of(ranks, tiny_lm(), config, 64, 4)
        assert isinstance(engine, DistributedEngine)
        assert isinstance(engine.local, RolloutEngine)
        return engine.local.max_tokens

    assert on_threads(2, made) == [48, 48]


@pytest.mark.parametrize(("size", "num_rows"), [(2, 5), (3, 7), (3, 2), (4, 1)])
def test_a_row_is_always_the_same_ranks(size: int, num_rows: int) -> None:
    engines = [Echo() for _ in range(size)]
    for number, each in enumerate(engines):
        each.num_forward_tokens = 10**number
    requests = requests_of(num_rows, 3)

    def run(
        ranks: Ranks,
    ) -> tuple[list[Rollout | None], list[tuple[int, Rollout]], tuple[int, int]]:
        told: list[tuple[int, Rollout]] = []
        engine = over(ranks, engines[ranks.rank])

        def finished(number: int, rollout: Rollout) -> list[int]:
            told.append((number, rollout))
            return []

        found = engine.run(requests, finished)
        return found, told, (engine.num_generated_tokens, engine.num_forward_tokens)

    expected = [Rollout((r.prompt_ids[0] - 1000, r.group)) for r in requests]
    for rank, (rollouts, told, num_tokens) in enumerate(on_threads(size, run)):
        assert rollouts == expected
        assert sorted(told, key=lambda t: t[0]) == list(enumerate(expected))
        assert num_tokens == (2 * len(requests), sum(10**n for n in range(size)))
        assert {row for _, row in engines[rank].calls} == set(range(rank, num_rows, size))
        own = [n for n, r in enumerate(requests) if r.prompt_ids[0] % 1000 % size == rank]
        rest = [n for n, _ in told[len(own) :]]
        assert ({n for n, _ in told[: len(own)]}, rest) == (set(own), sorted(rest))


def test_batches_are_those_of_one_process() -> None:
    engines = [Echo() for _ in range(2)]
    on_threads(2, lambda ranks: over(ranks, engines[ranks.rank], 3).run(requests_of(8, 2)))
    assert [{row for _, row in engine.calls} for engine in engines] == [
        {0, 1, 2, 6, 7},
        {3, 4, 5},
    ]


@pytest.mark.parametrize("num_contexts", [1, 2, 7])
def test_logits_come_from_the_rank_that_has_most_stored(num_contexts: int) -> None:
    contexts = [(row, *range(row)) for row in range(num_contexts)]
    engines = [Echo(), Echo(lambda ids: 3 if ids[0] in (0, 2) else 0), Echo(lambda ids: 1)]
    found = on_threads(3, lambda ranks: over(ranks, engines[ranks.rank]).next_logits(contexts))
    expected = Echo().next_logits(contexts)
    assert all(torch.equal(logits, expected) for logits in found)
    assert [engine.asked for engine in engines] == [
        [],
        [c for c in contexts if c[0] in (0, 2)],
        [c for c in contexts if c[0] not in (0, 2)],
    ]
    fair = [Echo() for _ in range(3)]
    on_threads(3, lambda ranks: over(ranks, fair[ranks.rank]).next_logits(contexts))
    assert [engine.asked for engine in fair] == [contexts[rank::3] for rank in range(3)]


def test_ranks_that_ask_for_different_things_are_told() -> None:
    def run(ranks: Ranks) -> None:
        over(ranks, Echo()).run(requests_of(3, 1 + ranks.rank))

    with pytest.raises(RuntimeError, match="the ranks have come to different prompts"):
        on_threads(2, run)
