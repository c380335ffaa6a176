"""The last stage against a plain reading of its rule, with an engine that answers from a table."""

import functools
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greater_fast.config import Config
from greater_fast.engine import OnFinished, Rollout, RolloutRequest
from greater_fast.search.nouns import Position, Scored
from greater_fast.search.selection import Selection, score_prompts, select
from greater_fast.search.state import LoopState
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
        self.state = LoopState(self.scored_alone(2))

    @property
    def scored(self) -> dict[tuple[int, ...], Scored]:
        """Prompts with an objective."""
        return self.state.scored

    def know(self, token: int) -> None:
        """A prompt scored in an earlier step."""
        self.scored[POSITION.with_token(token)] = self.scored_alone(token)

    def scored_alone(self, token: int) -> Scored:
        """A token's prompt, on all rows."""
        engine = FakeEngine(lambda ids, row: self.table[ids[1]][row])
        prompts = [POSITION.with_token(token)]
        (found,) = score_prompts(as_engine(engine), self.layouts, prompts, self.config)
        assert found
        return found

    def select(self, tokens: list[int] | None = None) -> Selection:
        """The winner among the incumbent and these tokens, in this order."""
        order = tokens if tokens is not None else [t for t in self.table if t != 2]
        shortlist = {token: float(n) for n, token in enumerate(order)}
        return select(
            as_engine(self.engine), self.layouts, shortlist, POSITION, self.state, self.config
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

    def expected_objectives(self, order: list[int], known: set[int]) -> list[float | None]:
        """What a step's log says of each token: None where it is worse than what was known."""
        bounds = [self.value(t) for t in known.intersection(order)]
        bounds += [self.value(2)] if self.config.accept == "improve" else []
        values = [(t, self.value(t)) for t in order]
        return [v if t in known or v <= min(bounds, default=v) + 1e-6 else None for t, v in values]


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
def test_the_winner_is_the_best_and_all_that_is_worse_than_was_known_is_given_up(
    objective: str, accept: str, table: Table, batch_size: int, data: st.DataObject
) -> None:
    known = data.draw(st.sets(st.sampled_from(sorted(table))))
    order = data.draw(st.permutations([t for t in table if t != 2]))
    trial = Trial(table, batch_size, objective=objective, accept=accept)
    for token in known:
        trial.know(token)
    winner = trial.expected()
    found = trial.select(order)
    assert found.winner.prompt_ids[1] == winner
    assert list(found.shortlist) == order
    expected = trial.expected_objectives(order, known)
    assert winner == 2 or expected[order.index(winner)] is not None
    for token, result, value in zip(order, found.scored, expected, strict=True):
        prompt_ids = POSITION.with_token(token)
        if value is None:
            assert result is None
            assert prompt_ids not in trial.scored
            assert prompt_ids in trial.state.given_up
        else:
            assert result is trial.scored[prompt_ids]
            assert result.objective.value(trial.config) == pytest.approx(value)
            assert result.rollouts == tuple(table[token])
    assert not {ids[1] for ids in trial.engine.prompts} & {2, *known}


@dataclass
class ShuffledEngine(FakeEngine):
    """Rows end in a random order, several in one step; of a dropped group some are still told."""

    source: random.Random = field(default_factory=random.Random)

    def run(
        self, requests: Sequence[RolloutRequest], on_finished: OnFinished | None = None
    ) -> list[Rollout | None]:
        found = super().run(requests)
        told: list[Rollout | None] = [None] * len(requests)
        numbers, dropped = list(range(len(requests))), set[int]()
        self.source.shuffle(numbers)
        while numbers:
            size = self.source.randint(1, len(numbers))
            step, numbers = numbers[:size], numbers[size:]
            for number in step:
                if requests[number].group in dropped and self.source.random() < 0.5:
                    continue
                told[number] = rollout = found[number]
                assert rollout
                assert on_finished
                dropped.update(on_finished(number, rollout))
            numbers = [n for n in numbers if requests[n].group not in dropped]
        return told


@OBJECTIVES
@pytest.mark.parametrize("accept", ["improve", "best"])
@given(table=tables(), source=st.randoms(use_true_random=False), data=st.data())
@settings(max_examples=120, deadline=None)
def test_what_is_kept_does_not_depend_on_the_order_in_which_rows_end(
    objective: str, accept: str, table: Table, source: random.Random, data: st.DataObject
) -> None:
    """Two steps at one place, so that the second meets what the first has left."""
    orders = [data.draw(st.permutations([t for t in table if t != 2])) for _ in range(2)]
    orders[0] = orders[0][: data.draw(st.integers(0, len(orders[0])))]
    known = data.draw(st.sets(st.sampled_from(sorted(table))))
    found = []
    for _ in range(4):
        trial = Trial(table, objective=objective, accept=accept)
        trial.engine = ShuffledEngine(trial.engine.rollout, source=source)
        for token in sorted(known):
            trial.know(token)
        selections = [trial.select(order) for order in orders]
        found.append((selections, trial.state, list(trial.scored), list(trial.state.given_up)))
    assert all(one == found[0] for one in found)


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


def test_a_loser_is_given_up_even_where_all_its_rows_ran() -> None:
    """How far the rows had come when it showed is a matter of timing."""
    for size in (2, 4):
        trial = Trial(table_of([1.0] * 4, t5=[1.0, 1.0, 1.0, 9.0]), size)
        found = trial.select()
        assert len(trial.engine.calls) == 4
        assert found.winner.prompt_ids == PROMPT
        assert found.scored == (None,)
        assert list(trial.scored) == [PROMPT]
        assert trial.state.given_up == {(1, 5, 3): pytest.approx(0.02)}


def test_what_beats_the_incumbent_is_remembered_even_when_a_rival_wins() -> None:
    """Token 9 is worse than token 5 from its first row on, whichever comes first."""
    for order in ([5, 9], [9, 5]):
        trial = Trial(table_of([9.0, 9.0], t5=[1.0, 1.0], t9=[8.0, 0.0]), 1)
        found = trial.select(order)
        assert found.winner.prompt_ids == (1, 5, 3)
        assert set(trial.scored) == {PROMPT, (1, 5, 3), (1, 9, 3)}
        trial.select(order)
        assert len(trial.engine.calls) == 4


@OBJECTIVES
def test_what_was_given_up_is_run_again_only_where_less_is_asked_of_it(objective: str) -> None:
    trial = Trial(
        table_of([1.0] * 3, t5=[3.0] * 3, t9=[2.0] * 3), objective=objective, accept="best"
    )
    trial.know(9)
    assert trial.select().scored == (None, trial.scored[1, 9, 3])
    num_calls = len(trial.engine.calls)
    assert trial.select().scored == (None, trial.scored[1, 9, 3])
    assert len(trial.engine.calls) == num_calls
    found = trial.select([5])
    assert found.winner is trial.scored[1, 5, 3]
    assert trial.state.given_up == {}


def test_a_loss_below_nothing_is_nothing() -> None:
    """Rounding may put a sure token's log-probability over 0; no row may lower what is known."""
    rows = [made_up(False, nll=1.0), made_up(False, 1e-3, nll=-1e-3)]
    trial = Trial({2: [made_up(False, nll=0.5)] * 2, 5: rows}, 1)
    assert trial.select().scored[0] is not None
    assert trial.scored[1, 5, 3].objective.prompt_nll == 0.5
    assert trial.scored[1, 5, 3].objective.answer_loss == 0.5


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
    (incumbent,) = score_prompts(as_engine(engine), layouts, [PROMPT], config)
    assert incumbent
    position = Position(0, 3, PROMPT)
    state = LoopState(incumbent)
    found = select(as_engine(engine), layouts, {6: 0.0, 7: 0.1}, position, state, config)
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
    assert score_prompts(as_engine(engine), table_layouts(2), [(5, 6)], config) != [None]
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


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_what_comes_of_a_prompt_that_is_given_up_decides_nothing(batch_size: int) -> None:
    """Its other rows may be cut off or not, by what else is in the batch."""
    broken = [made_up(True), *[made_up(False, nll=math.inf)] * 4]
    trial = Trial({2: [made_up(False)] * 5, 5: broken}, batch_size)
    assert trial.select().scored == (None,)


def test_the_incumbents_reasonings_are_the_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial({2: [made_up(False)] * 2, 5: [made_up(False, nll=0.5)] * 2})
    seen, own = list[RolloutRequest](), trial.engine.run

    def seeing(requests: Sequence[RolloutRequest], on_finished: OnFinished | None = None) -> Any:
        seen.extend(requests)
        return own(requests, on_finished)

    monkeypatch.setattr(trial.engine, "run", seeing)
    trial.select()
    assert [request.draft_ids for request in seen] == [made_up(False).reasoning_ids] * 2
