"""The first stage against a brute-force reading of its rules, on made-up distributions."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from greater_fast.config import Config
from greater_fast.rollouts.plain import PlainRolloutEngine
from greater_fast.search.nouns import Candidates, Position
from greater_fast.search.propose import draw_rows, propose
from tests.cases import layouts_of, plain_logits, small_config, tiny_lm

Survives = Callable[[Sequence[int]], bool]


@pytest.fixture(scope="module", autouse=True)
def rows_in_parts() -> Iterator[None]:
    """Rows are ranked some at a time, here too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("greater_fast.search.propose._RANKED_ROWS", 2)
        yield


class Table:
    """A model and a layout: row n's next-token logits are `logits[n]`, whatever the prompt."""

    def __init__(
        self, logits: list[list[float]], allowed: Sequence[int], survives: Survives | None = None
    ) -> None:
        self.values = torch.tensor(logits, dtype=torch.float32)
        self.candidate_mask = torch.zeros(self.values.shape[1], dtype=torch.bool)
        self.candidate_mask[list(allowed)] = True
        self.words = torch.arange(self.values.shape[1])
        self.rows = [SimpleNamespace(head_ids=(100 + n,)) for n in range(len(logits))]
        self.survives = survives or (lambda _: True)
        self.asked: list[tuple[int, ...]] = []
        self.contexts: list[tuple[int, ...]] = []

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lm(self) -> "Table":
        return self

    def next_logits(self, contexts: list[tuple[int, ...]]) -> torch.Tensor:
        self.contexts += contexts
        return self.values[[ids[0] - 100 for ids in contexts]]

    def round_trips(self, prompts: Sequence[tuple[int, ...]]) -> list[bool]:
        self.asked += prompts
        return [self.survives(ids) for ids in prompts]

    def propose(self, position: Position, config: Config) -> Candidates:
        """The stage under test."""
        itself: Any = self
        return propose(itself, itself, position, config)


def brute_force(table: Table, position: Position, config: Config) -> tuple[list[int], int]:
    """The candidates, and the k that gave them, from sets and sorted lists."""
    prompt, t = position.prompt_ids, position.index
    beside = {*prompt[max(t - 1, 0) : t], *prompt[t + 1 : t + 2]}
    allowed = set(table.candidate_mask.nonzero().flatten().tolist()) - beside
    ranked = [
        sorted(allowed, key=lambda v, r=row: (-float(r[v]), v))  # type: ignore[misc]
        for row in table.values
    ]
    k, number = config.top_k, 0
    while True:
        agreed: set[int] = set()
        for rows in draw_rows(len(table), position.step, number, config):
            agreed |= set.intersection(*(set(ranked[row][:k]) for row in rows))
        agreed -= {position.incumbent_id} if position.incumbent_id is not None else set()
        kept = sorted(v for v in agreed if table.survives(position.with_token(v)))
        if len(kept) >= 2 * config.shortlist_size or k >= len(allowed) or number == 7:
            return kept, k
        k, number = min(2 * k, len(allowed)), number + 1


@st.composite
def problems(draw: st.DrawFn) -> tuple[Table, Position, Config]:
    size, num_rows = draw(st.integers(4, 14)), draw(st.integers(1, 5))
    levels = st.integers(-3, 3).map(float)  # few, so that there are ties
    logits = [[draw(levels) for _ in range(size)] for _ in range(num_rows)]
    tokens = st.integers(0, size - 1)
    broken = draw(st.sets(tokens, max_size=4))
    table = Table(logits, sorted(draw(st.sets(tokens))), lambda ids: not broken & set(ids[-2:]))
    prompt = tuple(draw(st.lists(tokens, min_size=2, max_size=4)))
    position = Position(draw(st.integers(0, 3)), draw(st.integers(0, len(prompt))), prompt)
    config = Config(
        top_k=draw(st.integers(1, 5)),
        num_proposal_examples=draw(st.integers(1, 4)),
        num_draws=draw(st.integers(1, 3)),
        shortlist_size=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 3)),
    )
    return table, position, config


@given(problem=problems())
@hypothesis_settings(max_examples=200, deadline=None)
def test_candidates_are_those_of_the_rules(problem: tuple[Table, Position, Config]) -> None:
    table, position, config = problem
    found = table.propose(position, config)
    assert (list(found.ids), found.top_k) == brute_force(*problem)
    assert len(table.asked) == len(set(table.asked))  # no prompt is put to the test twice
    assert len(table.contexts) == len(set(table.contexts))  # nor a row run twice
    assert {ids[1:] for ids in table.contexts} == {position.prompt_ids[: position.index]}


FALLING = [[-float(v) for v in range(40)]]  # token v is the (v + 1)th choice
ALL = range(40)


def one_row(**settings: Any) -> Config:
    return Config(num_proposal_examples=1, num_draws=1, **settings)


def test_mask_stutter_and_incumbent() -> None:
    table = Table(FALLING, [v for v in ALL if v not in (0, 3)])
    config = one_row(top_k=8, shortlist_size=2)
    prompt = (30, 1, 5, 7)
    # The masked and those beside the place (1 and 7) take no rank; the incumbent (5) does.
    assert table.propose(Position(0, 2, prompt), config).ids == (2, 4, 6, 8, 9, 10, 11)
    assert table.propose(Position(0, 0, prompt), config).ids == (2, 4, 5, 6, 7, 8, 9, 10)
    assert table.propose(Position(0, 4, prompt), config).ids == (1, 2, 4, 5, 6, 8, 9, 10)
    assert table.propose(Position(0, 2, (30, 9)), config).ids == (1, 2, 4, 5, 6, 7, 8, 10)
    assert prompt not in table.asked


def test_the_same_word_in_another_case_is_a_stutter_too() -> None:
    table = Table(FALLING, ALL)
    table.words[[4, 9]] = 6
    config = one_row(top_k=8, shortlist_size=2)
    assert table.propose(Position(0, 1, (4, 20, 2)), config).ids == (0, 1, 3, 5, 7, 8, 10, 11)


def test_ties_go_to_the_lower_id() -> None:
    table = Table([[1.0] * 6 + [2.0] + [1.0] * 6], range(13))
    assert table.propose(Position(0, 0, (12, 12)), one_row(top_k=4, shortlist_size=2)).ids == (
        0, 1, 2, 6,
    )  # fmt: skip


def test_k_doubles_while_too_few_survive() -> None:
    table = Table(FALLING, ALL, lambda ids: ids[1] > 6)
    found = table.propose(Position(0, 1, (30, 31)), one_row(top_k=3, shortlist_size=2))
    assert found.top_k == 12
    assert found.ids == (7, 8, 9, 10, 11)
    assert [ids[1] for ids in table.asked] == list(range(12))


def test_rounds_are_bounded_where_nothing_survives() -> None:
    size = 5000
    table = Table([[-float(v) for v in range(size)]], range(size), lambda _: False)
    found = table.propose(Position(0, 1, (4000, 4001)), one_row(top_k=10))
    assert (found.ids, found.top_k) == ((), 10 * 2**7)
    assert len(table.asked) == 10 * 2**7


def test_widening_ends_with_the_vocabulary() -> None:
    table = Table(FALLING, [3, 5, 8, 30], lambda ids: ids[1] > 4)
    found = table.propose(Position(0, 1, (30, 31)), one_row(top_k=1, shortlist_size=3))
    assert found.ids == (5, 8)
    assert found.top_k == 3  # 30 stands before, so three are allowed, fewer than 4
    nothing = Table(FALLING, []).propose(Position(0, 1, (30, 31)), one_row())
    assert (nothing.ids, nothing.logprobs) == ((), ())


def test_nothing_is_proposed_where_the_vocabulary_is_searched() -> None:
    config = one_row(candidates="vocabulary", top_k=4, shortlist_size=1)
    table = Table(FALLING, ALL)
    assert table.propose(Position(0, 1, (30, 31)), config) == Candidates((), (), 0)
    assert table.contexts == []
    assert table.propose(Position(0, 2, (30, 31)), config).ids == (0, 1, 2, 3)  # a placeholder


def test_a_candidate_must_be_agreed_on_within_one_draw() -> None:
    """The two first choices of three rows: every pair of rows, but not all of them, may agree."""
    rows = [[5.0, 4.0, 0.0, 0.0, -1.0], [5.0, 0.0, 4.0, 0.0, -1.0], [0.0, 5.0, 0.0, 4.0, -1.0]]
    table, position = Table(rows, range(4)), Position(0, 0, (4, 4))
    config = Config(top_k=2, num_proposal_examples=2, num_draws=60, shortlist_size=1)
    pairs = {frozenset(drawn) for drawn in draw_rows(3, 0, 0, config)}
    assert len(pairs) == 3
    found = table.propose(position, config)
    assert (found.ids, found.top_k) == ((0, 1), 2)
    all_rows = dataclasses.replace(config, num_proposal_examples=3)
    assert table.propose(position, all_rows).top_k == 4


def test_logprobs_are_means_over_the_rows_of_the_last_round() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 30, generator=generator) * 3
    table = Table(logits.tolist(), range(3, 30))
    config = Config(top_k=2, num_proposal_examples=2, num_draws=2, shortlist_size=3)
    position = Position(4, 1, (10, 11, 12))
    found = table.propose(position, config)
    rounds = (found.top_k // config.top_k).bit_length() - 1
    assert rounds > 0
    drawn = sorted({row for rows in draw_rows(6, 4, rounds, config) for row in rows})
    assert len(drawn) < 6
    expected = logits[drawn].log_softmax(-1).mean(0)[list(found.ids)]
    assert found.logprobs == pytest.approx(expected.tolist(), rel=1e-5)


def test_the_likeliest_candidate() -> None:
    assert Candidates((4, 7, 9), (-3.0, -1.0, -2.0), 5).likeliest == 7
    assert Candidates((4, 7, 9), (-3.0, -1.0, -1.0), 5).likeliest == 7
    assert Candidates((0,), (-3.0,), 5).likeliest == 0


def test_draws_are_a_function_of_seed_step_and_round() -> None:
    config = small_config(num_proposal_examples=3, num_draws=4)
    first = draw_rows(20, 5, 2, config)
    torch.manual_seed(1)
    assert draw_rows(20, 5, 2, config) == first
    assert draw_rows(20, 5, 2, small_config(num_proposal_examples=3, num_draws=4, top_k=1)) == first
    others = [
        draw_rows(20, 5, 2, small_config(num_proposal_examples=3, num_draws=4, seed=1)),
        draw_rows(20, 6, 2, config),
        draw_rows(20, 5, 3, config),
    ]
    assert first not in others
    assert [len(set(rows)) for rows in first] == [3] * 4
    assert list(inspect.signature(draw_rows).parameters) == [
        "num_rows",
        "step",
        "round_number",
        "config",
    ]


def test_a_draw_has_no_more_rows_than_there_are() -> None:
    for rows in draw_rows(3, 0, 0, small_config(num_proposal_examples=5)):
        assert sorted(rows) == [0, 1, 2]
    drawn = {
        row for step in range(30) for rows in draw_rows(4, step, 0, small_config()) for row in rows
    }
    assert drawn == {0, 1, 2, 3}


@functools.cache
def real(family: str) -> tuple[Any, Any]:
    lm = tiny_lm(family)
    return lm, layouts_of(lm, 4)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("index", [0, 5])
def test_with_a_model(family: str, index: int) -> None:
    """The distributions are those of the bare prefixes, and every candidate survives its text."""
    lm, layouts = real(family)
    config = small_config()
    position = Position(2, index, layouts.prompt_ids)
    found = propose(PlainRolloutEngine(lm), layouts, position, config)
    heads = [[*row.head_ids, *layouts.prompt_ids[:index]] for row in layouts.rows]
    table = Table(
        [plain_logits(lm, ids)[-1].tolist() for ids in heads],
        layouts.candidate_mask.nonzero().flatten().tolist(),
        lambda ids: bool(layouts.round_trips([ids])[0]),
    )
    assert (list(found.ids), found.top_k) == brute_force(table, position, config)
    assert len(found.ids) >= 2 * config.shortlist_size
