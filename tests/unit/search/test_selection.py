"""The last stage against a plain reading of its rule, with an engine that answers from a table."""

import functools
import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greater_fast.config import Config
from greater_fast.engine import Rollout
from greater_fast.search.nouns import Position, Scored
from greater_fast.search.selection import Selection, score_prompts, select
from tests.cases import FakeEngine, as_engine, made_up, mean, table_layouts

PROMPT = (1, 2, 3)
POSITION = Position(4, 1, PROMPT)
OBJECTIVES = pytest.mark.parametrize("objective", ["error", "loss"])
Table = dict[int, list[Rollout]]  # token at the position -> its rollouts; the incumbent's is 2


class Trial:
    """A selection among the tokens of a table, with rows in batches of `batch_size`."""

    def __init__(self, table: Table, batch_size: int = 32, **settings: Any) -> None:
        self.table, self.config = table, Config(**settings)
        self.engine = FakeEngine(lambda ids, row: table[ids[1]][row], batch_size)
        self.layouts = table_layouts(len(table[2]))
        self.scored: dict[tuple[int, ...], Scored] = {}
        self.know(2)

    def know(self, token: int) -> None:
        """A prompt scored in an earlier step."""
        engine = FakeEngine(lambda ids, row: self.table[ids[1]][row])
        prompt_ids = POSITION.with_token(token)
        (found,) = score_prompts(
            as_engine(engine), self.layouts, [prompt_ids], self.config
        ).results()
        assert found
        self.scored[prompt_ids] = found

    def select(self, tokens: list[int] | None = None) -> Selection:
        """The winner among the incumbent and these tokens, in this order."""
        order = tokens if tokens is not None else [t for t in self.table if t != 2]
        shortlist = {token: float(n) for n, token in enumerate(order)}
        return select(
            as_engine(self.engine), self.layouts, shortlist, POSITION, self.scored, self.config
        )

    def winner(self, tokens: list[int] | None = None) -> int:
        """The winner's token."""
        return self.select(tokens).winner.prompt_ids[1]

    def value(self, token: int) -> float:
        """The objective, written out."""
        rollouts = self.table[token]
        nll = mean([r.prompt_nll for r in rollouts])
        if self.config.objective == "error":
            wrong = mean([float(not all(r.answer_hits)) for r in rollouts])
            return wrong + self.config.error_fluency_weight * nll
        return mean([-mean(r.answer_logprobs) for r in rollouts]) + self.config.fluency_weight * nll

    def expected(self) -> int:
        """Lowest objective; of those within 1e-6 of it the incumbent, else the lowest token."""
        values = {t: self.value(t) for t in self.table}
        if self.config.accept == "best" and len(values) > 1:
            del values[2]
        lowest = min(values.values())
        tied = [t for t, v in values.items() if v <= lowest + 1e-6]
        return 2 if 2 in tied else min(tied)


ROLLOUTS = st.builds(
    made_up,
    wrong=st.booleans(),
    logprob=st.sampled_from([0.0, -1.0, -1.0 - 4e-7, -1.0 - 3e-6, -4.0]),
    nll=st.sampled_from([0.0, 1.0, 1.0 + 3e-6, 1.0 + 2e-5, 1.0 + 1e-4, 3.0, 60.0]),
)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    num_rows = draw(st.integers(1, 6))
    others = draw(st.lists(st.sampled_from([0, 1, 3, 5, 8]), unique=True, max_size=4))
    rows = st.lists(ROLLOUTS, min_size=num_rows, max_size=num_rows)
    table = {token: draw(rows) for token in [2, *others]}
    near_ties = draw(st.booleans())
    if others and near_ties:
        table[others[0]] = [*table[2][:-1], draw(ROLLOUTS)]
    return table


@OBJECTIVES
@pytest.mark.parametrize("accept", ["improve", "best"])
@given(table=tables(), batch_size=st.integers(1, 4), data=st.data())
@settings(max_examples=120, deadline=None)
def test_the_winner_is_the_same_with_and_without_pruning(
    objective: str, accept: str, table: Table, batch_size: int, data: st.DataObject
) -> None:
    known = data.draw(st.sets(st.sampled_from(sorted(table))))
    order = data.draw(st.permutations([t for t in table if t != 2]))
    how: dict[str, Any] = {"objective": objective, "accept": accept}
    unpruned = Trial(table, **how)
    winner = unpruned.winner(order)
    assert winner == unpruned.expected()
    assert all(result for result in unpruned.select(order).scored)
    pruning = Trial(table, batch_size, **how)
    for token in known:
        pruning.know(token)
    found = pruning.select(order)
    assert found.winner.prompt_ids[1] == winner
    assert list(found.shortlist) == order
    for token, result in zip(order, found.scored, strict=True):
        if result is None:
            assert POSITION.with_token(token) not in pruning.scored
        else:
            assert result is pruning.scored[POSITION.with_token(token)]
            assert result.objective.value(pruning.config) == pytest.approx(unpruned.value(token))
            assert result.rollouts == tuple(table[token])
    assert not {ids[1] for ids in pruning.engine.prompts} & {2, *known}


def table_of(incumbent: list[float], **others: list[float]) -> Table:
    """Right rows with these prompt NLLs; `t5=[...]` are those of token 5."""
    named = {int(name[1:]): values for name, values in others.items()}
    return {t: [made_up(False, nll=v) for v in nlls] for t, nlls in {2: incumbent, **named}.items()}


@OBJECTIVES
def test_ties_go_to_the_incumbent_then_to_the_lower_id(objective: str) -> None:
    weight = Config().error_fluency_weight if objective == "error" else Config().fluency_weight
    trial = functools.partial(Trial, objective=objective)
    near, far = 0.9e-6 / weight, 1.1e-6 / weight
    assert trial(table_of([1.0], t9=[1.0], t5=[1.0])).winner() == 2
    assert trial(table_of([1.0], t9=[1.0 - near])).winner() == 2
    assert trial(table_of([1.0], t9=[1.0 - far])).winner() == 9
    assert trial(table_of([1.0], t9=[0.5], t5=[0.5])).winner() == 5
    assert trial(table_of([1.0], t9=[0.5], t5=[0.5 + near])).winner() == 5
    assert trial(table_of([1.0], t9=[0.5], t5=[0.5 + far])).winner() == 9
    assert trial(table_of([1.0], t9=[0.5 - near], t5=[0.5])).winner([9, 5]) == 5
    almost = table_of([2.0, 2.0], t9=[1.0, 1.0], t5=[2.0 + near, 0.0])  # tied before its last row
    assert trial(almost, 1).winner([9, 5]) == 5


@OBJECTIVES
def test_a_pruned_candidate_leaves_no_trace(objective: str) -> None:
    hopeless = [made_up(True, -50.0, 100.0)] * 4
    trial = Trial({2: [made_up(False)] * 4, 5: hopeless}, 2, objective=objective)
    before = dict(trial.scored)
    found = trial.select()
    assert found.scored == (None,)
    assert found.shortlist == {5: 0.0}
    assert trial.scored == before
    assert [row for _, row in trial.engine.calls] == [0, 1]  # the other rows were cancelled


def test_a_complete_candidate_is_remembered_even_when_it_loses() -> None:
    """Only what was cut short is unknown: all rows of this one ran."""
    for size in (2, 4):
        trial = Trial(table_of([1.0] * 4, t5=[1.0, 1.0, 1.0, 9.0]), size)
        found = trial.select()
        assert len(trial.engine.calls) == 4
        assert found.winner.prompt_ids == PROMPT
        (loser,) = found.scored
        assert loser
        assert trial.scored[1, 5, 3] is loser
        assert loser.objective.prompt_nll == 3.0
        trial.select()
        assert len(trial.engine.calls) == 4


def test_the_best_so_far_prunes_the_next() -> None:
    """Token 5 beats the incumbent, and token 9, which would have too, is given up against it."""
    trial = Trial(table_of([9.0, 9.0], t5=[1.0, 1.0], t9=[8.0, 0.0]), 1)
    found = trial.select([5, 9])
    assert [result is None for result in found.scored] == [False, True]
    assert found.winner.prompt_ids == (1, 5, 3)


@OBJECTIVES
def test_known_prompts_are_not_run_again(objective: str) -> None:
    trial = Trial(table_of([1.0] * 3, t5=[0.5] * 3, t9=[0.7] * 3), objective=objective)
    trial.know(5)
    known = trial.scored[1, 5, 3]
    found = trial.select()
    assert trial.engine.prompts == [(1, 9, 3)]
    assert found.winner is known
    trial.select()
    assert len(trial.engine.calls) == 3


@OBJECTIVES
def test_accept_best_replaces_a_better_incumbent(objective: str) -> None:
    table = table_of([0.1] * 3, t5=[5.0] * 3, t9=[4.0] * 3)
    for size in (1, 8):
        trial = Trial(table, size, objective=objective, accept="best")
        assert trial.winner() == 9
        assert PROMPT not in trial.engine.prompts
        assert Trial(table, size, objective=objective).winner() == 2


@pytest.mark.parametrize("accept", ["improve", "best"])
def test_an_empty_shortlist_keeps_the_incumbent(accept: str) -> None:
    trial = Trial(table_of([1.0]), accept=accept)
    found = trial.select([])
    assert found.winner is trial.scored[PROMPT]
    assert (found.scored, trial.engine.calls) == ((), [])


def test_growth_competes_with_the_ungrown() -> None:
    engine = FakeEngine(lambda ids, row: made_up(False, nll=0.5 if ids[3:] == (7,) else 2.0))
    layouts, config = table_layouts(2), Config()
    (incumbent,) = score_prompts(as_engine(engine), layouts, [PROMPT], config).results()
    assert incumbent
    position = Position(0, 3, PROMPT)
    found = select(
        as_engine(engine), layouts, {6: 0.0, 7: 0.1}, position, {PROMPT: incumbent}, config
    )
    assert found.winner.prompt_ids == (1, 2, 3, 7)


def test_requests_are_laid_out_rows() -> None:
    """Head, prompt and tail; the extractor and the answer behind; the answer alone is scored."""
    seen: list[Any] = []

    class Seeing(FakeEngine):
        def run(self, requests: Any, on_finished: Any = None) -> list[Rollout | None]:
            seen.extend(requests)
            return super().run(requests, on_finished)

    engine = Seeing(lambda ids, row: made_up(False))
    config = Config(max_new_tokens=17)
    assert score_prompts(as_engine(engine), table_layouts(2), [(5, 6)], config).results() != [None]
    for row, request in enumerate(seen):
        assert request.prompt_ids == (1000 + row, 5, 6, 2000)
        assert request.prompt_span == (1, 3)
        assert request.target_ids == (4000, 4001, 3000)
        assert (request.num_scored, request.max_new_tokens) == (1, 17)
        assert request.end_ids == engine.lm.end_ids
        assert request.sample_key == row


@pytest.mark.parametrize("field", ["logprob", "nll"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_its_example(field: str, value: float) -> None:
    for batch_size, row in itertools.product((1, 2, 8), (0, 3)):
        broken = made_up(False, **{field: -value if field == "logprob" else value})
        table = {
            2: [made_up(False)] * 5,
            5: [broken if n == row else made_up(False) for n in range(5)],
        }
        trial = Trial(table, batch_size)
        with pytest.raises(FloatingPointError, match=f"loss of example {row} is not finite"):
            trial.select()
        assert list(trial.scored) == [PROMPT]
