"""Selection by a metric against a plain reading of its rule: the mean of 1 - metric decides."""

import dataclasses
import functools
import math
import random
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greater_fast.config import Config
from greater_fast.engine import Rollout, RolloutRequest
from greater_fast.examples.data import Example
from greater_fast.examples.layout import SPARE_ANSWER_TOKENS, Layouts
from greater_fast.memory.budget import RowLengths
from greater_fast.rollouts.plain import PlainRolloutEngine
from greater_fast.search.nouns import Position, Scored, objective_of
from greater_fast.search.reasonings import draw_reasonings
from greater_fast.search.selection import score_prompts, select
from greater_fast.search.state import LoopState
from tests.cases import FakeEngine, as_engine, layouts_of, small_config, table_layouts, tiny_lm

PROMPT = (1, 2, 3)
POSITION = Position(4, 1, PROMPT)
Table = dict[int, list[Rollout]]  # token at the position -> its rollouts; the incumbent's is 2

VALUES = st.sampled_from([0.0, 0.1, 0.2, 0.3, 1 / 3, 0.5, 0.7, 0.9, 1.0])
ROLLOUTS = st.builds(
    lambda value, nll: Rollout((7,), prompt_nll=nll, answer_ids=(8,), metric=value),
    VALUES,
    st.sampled_from([0.0, 1.0, 1.0 + 7e-5, 3.0, 9.0]),
)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    num_rows = draw(st.integers(1, 6))
    others = draw(st.lists(st.sampled_from([0, 1, 3, 5, 8]), unique=True, max_size=4))
    rows = st.lists(ROLLOUTS, min_size=num_rows, max_size=num_rows)
    return {token: draw(rows) for token in [2, *others]}


def value_of(rollouts: list[Rollout]) -> float:
    """The objective, written out in fractions."""
    n = len(rollouts)
    wrong = sum(1 - Fraction(r.metric or 0) for r in rollouts) / n
    fluency = sum(Fraction(r.prompt_nll) for r in rollouts) / n
    return float(wrong + Fraction(1, 50) * fluency)


@pytest.mark.parametrize("accept", ["improve", "best"])
@given(table=tables(), batch_size=st.integers(1, 7), data=st.data())
@settings(max_examples=100, deadline=None)
def test_the_highest_metric_wins_and_giving_up_changes_nothing(
    accept: str, table: Table, batch_size: int, data: st.DataObject
) -> None:
    config = Config(accept=accept)
    layouts = dataclasses.replace(table_layouts(len(table[2])), metric=lambda text, row: 0.0)
    engine = FakeEngine(lambda ids, row: table[ids[1]][row], batch_size)
    order = data.draw(st.permutations([t for t in table if t != 2]))
    (incumbent,) = score_prompts(as_engine(engine), layouts, [PROMPT], config)
    assert incumbent
    shortlist = dict.fromkeys(order, 0.0)
    found = select(as_engine(engine), layouts, shortlist, POSITION, LoopState(incumbent), config)
    values = {token: value_of(rollouts) for token, rollouts in table.items()}
    bound = values[2] if accept == "improve" else math.inf
    if accept == "best" and len(values) > 1:
        del values[2]
    lowest = min(values.values())
    tied = [token for token, value in values.items() if value <= lowest + 1e-6]
    assert found.winner.prompt_ids[1] == (2 if 2 in tied else min(tied))
    for token, scored in zip(order, found.scored, strict=True):
        assert (scored is not None) is (values[token] <= bound + 1e-6)
        if scored:
            assert scored.objective.value(config) == pytest.approx(values[token])
            assert scored.objective.error_rate == pytest.approx(
                1 - sum(r.metric or 0 for r in table[token]) / len(table[token])
            )


def test_what_closes_a_thought_ends_a_reasoning() -> None:
    """In the search and in draws, beside the model's own ends (9)."""
    layouts = dataclasses.replace(table_layouts(2), end_ids=frozenset([33]))
    asked = seen_requests(Config(), layouts)

    class Seeing(FakeEngine):
        def run(self, requests: Any, on_finished: Any = None) -> list[Rollout | None]:
            asked.extend(requests)
            return super().run(requests, on_finished)

    engine = as_engine(Seeing(lambda *_: Rollout((7,), (-1.0,), (True,), 1.0)))
    config = Config(num_reasonings=2, gradient="both", reasonings="sampled")
    draw_reasonings(engine, layouts, POSITION, config)
    assert len(asked) == 2 + 2 * 2
    assert {request.end_ids for request in asked} == {frozenset([9, 33])}


@given(st.lists(ROLLOUTS, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_some_rows_never_say_more_than_all(rollouts: list[Rollout], source: random.Random) -> None:
    """Whatever their order, bit for bit."""
    source.shuffle(rollouts)
    whole = objective_of(rollouts, len(rollouts))
    assert objective_of(sorted(rollouts, key=repr), len(rollouts)) == whole
    values = [
        objective_of(rollouts[:n], len(rollouts)).value(Config()) for n in range(len(rollouts) + 1)
    ]
    assert values == sorted(values)
    assert values[-1] == whole.value(Config())


def length(predicted: str, row: Example) -> float:
    return len(predicted) / 100


def seen_requests(
    config: Config, layouts: Layouts, prompt_ids: tuple[int, ...] = (5, 6)
) -> list[RolloutRequest]:
    """What is asked of an engine that scores a prompt."""
    seen: list[RolloutRequest] = []

    class Seeing(FakeEngine):
        def run(self, requests: Any, on_finished: Any = None) -> list[Rollout | None]:
            seen.extend(requests)
            return super().run(requests, on_finished)

    engine = Seeing(lambda ids, row: Rollout((7,), (-1.0,), (True,), 1.0))
    score_prompts(as_engine(engine), layouts, [prompt_ids], config)
    return seen


MEASURED = dataclasses.replace(table_layouts(2), metric=length)


def test_answers_are_generated_as_evaluation_generates_them() -> None:
    for row, request in enumerate(seen_requests(Config(), MEASURED)):
        assert request.prompt_ids == (1000 + row, 5, 6, 2000)
        assert request.prompt_span == (1, 3)
        assert (request.target_ids, request.num_scored) == ((4000, 4001), 0)
        assert request.max_answer_tokens == 1 + SPARE_ANSWER_TOKENS
        assert request.measure is not None
        assert request.measure((5, 77)) == len("w5 w77") / 100


def test_without_a_metric_or_by_loss_gold_answers_are_scored() -> None:
    plain = seen_requests(Config(), table_layouts(2))
    for request in plain:
        assert (request.target_ids, request.num_scored) == ((4000, 4001, 3000), 1)
        assert (request.max_answer_tokens, request.measure) == (0, None)
    assert seen_requests(Config(objective="loss"), MEASURED) == plain


def test_wrong_rows_are_counted_in_whole_numbers_without_a_metric() -> None:
    rollouts = [Rollout((), (-1.0,), (hit,)) for hit in (True, False, False)]
    found = objective_of(rollouts, 3).num_wrong
    assert (found, type(found)) == (2, int)


def test_a_state_keeps_what_was_measured() -> None:
    rollout = Rollout((7,), prompt_nll=1.0, answer_ids=(8, 9), metric=0.3)
    state = LoopState(Scored(PROMPT, objective_of([rollout], 1), (rollout,)))
    again = LoopState.from_dict(state.to_dict())
    assert again == state
    assert again.incumbent.objective.num_wrong == 0.7


def test_with_a_model() -> None:
    """The same rollouts as without a metric, but for the answers, by the rule of evaluation."""
    lm, config = tiny_lm(), small_config()
    plain = layouts_of(lm, 4)
    layouts = dataclasses.replace(plain, metric=length)
    engine = PlainRolloutEngine(lm, 3)
    score = functools.partial(score_prompts, engine, prompts=[plain.prompt_ids], config=config)
    (scored,), (without,) = score(layouts=layouts), score(layouts=plain)
    assert scored
    assert without
    for row, (measured, other) in enumerate(zip(scored.rollouts, without.rollouts, strict=True)):
        assert measured.reasoning_ids == other.reasoning_ids
        assert measured.prompt_nll == pytest.approx(other.prompt_nll)
        predicted = layouts.extractor.cut(lm.vocabulary.text(measured.answer_ids))
        assert measured.metric == length(predicted, layouts.rows[row].example)
    total = sum(1 - (r.metric or 0) for r in scored.rollouts)
    assert scored.objective.num_wrong == pytest.approx(total)


def test_the_plan_has_room_for_the_answers() -> None:
    """A sequence at its longest: the prompt grown, and each token that a request may ask for."""
    config = Config(max_new_tokens=20, max_prompt_tokens=30)
    rows = [Example("Is it?", "True"), Example("Is it so?", "neither of the two at all")]
    layouts = dataclasses.replace(layouts_of(tiny_lm(), rows), metric=length)
    asked = seen_requests(config, layouts, (layouts.prompt_ids * 9)[:30])
    longest = max(
        len(r.prompt_ids) + r.max_new_tokens + len(r.target_ids) + r.max_answer_tokens
        for r in asked
    )
    assert longest == layouts.longest_sequence(config)
    assert RowLengths.of({"train": layouts}, config).longest == longest


def test_drawn_reasonings_are_right_by_the_metric() -> None:
    """From a half on; what is asked of the engine is what selection asks for."""
    seen: list[RolloutRequest] = []

    class Measuring(FakeEngine):
        def run(self, requests: Any, on_finished: Any = None) -> list[Rollout | None]:
            seen.extend(requests)
            return [Rollout((n,), metric=n / 4) for n in range(len(requests))]

    engine = Measuring(lambda ids, row: Rollout(()))
    config = Config(num_reasonings=2, gradient="both", reasonings="sampled")
    found = draw_reasonings(as_engine(engine), MEASURED, POSITION, config)
    assert [[r.is_right for r in row] for row in found] == [[False, True], [False, True]]
    for request in seen:
        assert (request.target_ids, request.num_scored) == ((4000, 4001), 0)
        assert request.max_answer_tokens == 1 + SPARE_ANSWER_TOKENS
        assert request.measure is not None
