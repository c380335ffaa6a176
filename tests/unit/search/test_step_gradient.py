"""What a step ranks its candidates by: the answer's gradient, the reasoning's, or both."""

from typing import Any

import pytest
import torch

from greater_fast.config import Config
from greater_fast.engine import Rollout
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.search import gradient
from greater_fast.search.gradient import prompt_gradient, reasoning_gradients, step_gradient
from greater_fast.search.nouns import Position, Scored, objective_of
from greater_fast.search.reasonings import Reasoning, draw_reasonings
from greater_fast.search.state import LoopState
from tests.cases import FakeEngine, as_engine, layouts_of, small_config, tiny_lm

NUM_ROWS = 3
LAYOUTS = layouts_of(tiny_lm(), NUM_ROWS)
PLACE = Position(5, 3, LAYOUTS.prompt_ids)


def rollout(*ids: int, right: bool) -> Rollout:
    return Rollout(ids, (-1.0,), (right,), 1.0, end_id=1)


OWN = (rollout(20, 21, right=True), rollout(30, right=False), rollout(41, 40, right=True))
OTHER = (rollout(22, right=False), rollout(31, 32, right=False), rollout(42, right=False))


def config(**settings: Any) -> Config:
    return small_config(temperature=0.5, **settings)


def scored(prompt_ids: tuple[int, ...], rollouts: tuple[Rollout, ...]) -> Scored:
    return Scored(prompt_ids, objective_of(rollouts, NUM_ROWS), rollouts)


def state_of(given: Config, other: tuple[Rollout, ...] = OTHER) -> LoopState:
    """An incumbent, and another prompt that was scored after it."""
    own = scored(LAYOUTS.prompt_ids, OWN)
    state = LoopState(own)
    state.add(own, given)
    state.add(scored((*LAYOUTS.prompt_ids, 50), other), given)
    return state


@pytest.fixture(scope="module")
def engine() -> RolloutEngine:
    return RolloutEngine(tiny_lm(), kv_cache_bytes=1 << 24, draws=True)


def answer(engine: RolloutEngine, **settings: Any) -> torch.Tensor:
    return prompt_gradient(engine, LAYOUTS, OWN, PLACE, config(**settings))


def reasoning(engine: RolloutEngine, **settings: Any) -> torch.Tensor:
    rows = [[Reasoning.of(own), Reasoning.of(r)] for own, r in zip(OWN, OTHER, strict=True)]
    found = reasoning_gradients(engine, LAYOUTS, rows, PLACE, config(**settings))  # [N, D]
    assert [bool(row.any()) for row in found] == [True, False, True]
    if settings.get("gradient_norm") == "example":
        found /= found.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return found.sum(0)


@pytest.mark.parametrize("norm", ["none", "example"])
def test_each_part_and_both(engine: RolloutEngine, norm: str) -> None:
    def found(**settings: Any) -> torch.Tensor:
        given = config(gradient_norm=norm, **settings)
        return step_gradient(engine, LAYOUTS, state_of(given), PLACE, given).vector

    ours, theirs = answer(engine, gradient_norm=norm), reasoning(engine, gradient_norm=norm)
    assert torch.equal(found(), ours)
    torch.testing.assert_close(found(gradient="reasoning"), theirs)
    expected = ours / ours.norm() + 0.3 * theirs / theirs.norm()
    torch.testing.assert_close(found(gradient="both", reasoning_weight=0.3), expected)


def test_while_no_row_has_both_outcomes_the_answers_stands_alone(engine: RolloutEngine) -> None:
    ours = answer(engine)
    for kind in ("reasoning", "both"):
        given = config(gradient=kind)
        found = step_gradient(engine, LAYOUTS, state_of(given, OWN), PLACE, given)
        torch.testing.assert_close(found.vector, ours / ours.norm())
        assert found.num_contrasted == 0


def test_a_rows_reasonings_are_added_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there are so many numbers that torch would add them up in several threads."""
    num_rows, number, width = 67, 3, 576  # odd: half of the numbers end within a row's
    found = torch.randn(num_rows * number, width, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(gradient, "sequence_gradients", lambda *_: found)
    ends = [(20, True), (21, False), (22, False)]
    rows = [[Reasoning((i,), right, 1) for i, right in ends]] * num_rows
    layouts, given = layouts_of(tiny_lm(), num_rows), config()
    expected = torch.stack([(a + b) + c for a, b, c in found.view(num_rows, number, width)])
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(20):
            summed = reasoning_gradients(as_engine(FakeEngine(made)), layouts, rows, PLACE, given)
            assert torch.equal(summed, expected)
    finally:
        torch.set_num_threads(num_threads)


def made(*_: object) -> Rollout:
    raise AssertionError  # nothing is generated


@pytest.mark.parametrize("size", [1e-37, 1e-25, 1e-20, 1.0, 1e25])
def test_short_and_long_gradients_have_length_1_too(
    monkeypatch: pytest.MonkeyPatch, size: float
) -> None:
    """Squares of their numbers are no float32: so it is where an answer is nearly sure."""
    found = torch.tensor([[3.0, -4.0], [1.0, 0.0], [0.0, 0.0]]) * torch.tensor([[size], [1], [1]])
    monkeypatch.setattr(gradient, "example_gradients", lambda *_: found)
    given, engine = config(gradient_norm="example"), as_engine(FakeEngine(made))
    summed = prompt_gradient(engine, LAYOUTS, OWN, PLACE, given)
    torch.testing.assert_close(summed, torch.tensor([1.6, -0.8]))


def test_a_state_from_json_gives_the_same_bits(engine: RolloutEngine) -> None:
    given = config(gradient="both")
    state = state_of(given)
    read = LoopState.from_dict(state.to_dict())
    found = [step_gradient(engine, LAYOUTS, s, PLACE, given) for s in (state, read)]
    assert torch.equal(*(one.vector for one in found))
    assert [one.num_contrasted for one in found] == [2, 2]  # as many rows have a gradient


def test_draws_are_those_of_the_step_and_the_prompt(engine: RolloutEngine) -> None:
    given = config(gradient="reasoning", reasonings="sampled", num_reasonings=6)
    found = draw_reasonings(engine, LAYOUTS, PLACE, given)
    assert [len(row) for row in found] == [6] * NUM_ROWS
    assert draw_reasonings(engine, LAYOUTS, PLACE, given) == found
    ids = [r.ids for row in found for r in row]
    assert len(set(ids)) > len(ids) // 2  # each has noise of its own
    later = Position(PLACE.step + 1, PLACE.index, PLACE.prompt_ids)
    assert draw_reasonings(engine, LAYOUTS, later, given) != found
    for row in found:
        for r in row:
            assert (r.end_id is None) == (len(r.ids) == given.max_new_tokens)
            assert r.end_id is None or r.end_id in engine.lm.end_ids

    # Scored as in selection: right where the answer is, behind what was drawn.
    logits = [
        engine.lm.model(torch.tensor([ids])).logits[0, -1 - len(LAYOUTS.rows[0].answer_ids) : -1]
        for r in found[0]
        for ids in [[*LAYOUTS.context_ids(0, PLACE.prompt_ids), *r.ids, *LAYOUTS.target_ids(0)]]
    ]
    likeliest = [tuple(rows.argmax(-1).tolist()) for rows in logits]
    assert [r.is_right for r in found[0]] == [
        ids == LAYOUTS.rows[0].answer_ids for ids in likeliest
    ]


def test_a_step_draws_where_that_is_asked_for(
    engine: RolloutEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = config(gradient="reasoning", reasonings="sampled", num_reasonings=6)
    state = state_of(given)
    assert state.reasonings.rows == []
    drawn = draw_reasonings(engine, LAYOUTS, PLACE, given)
    marked = [[Reasoning(r.ids, i % 2 == 0, r.end_id) for i, r in enumerate(row)] for row in drawn]
    monkeypatch.setattr(gradient, "draw_reasonings", lambda *_: marked)  # as none drawn is right
    found = step_gradient(engine, LAYOUTS, state, PLACE, given)
    expected = reasoning_gradients(engine, LAYOUTS, marked, PLACE, given).sum(0)
    assert expected.any()
    assert found.num_contrasted == NUM_ROWS
    torch.testing.assert_close(found.vector, expected)
