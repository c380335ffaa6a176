"""Several models as one, with engines that answer from tables."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from greater_fast.config import Config
from greater_fast.engine import Engine, Rollout
from greater_fast.search.ensemble import Ensemble, by_model, members
from greater_fast.search.nouns import Position, Scored, objective_of
from greater_fast.search.reasonings import Reasoning
from greater_fast.search.score import first_order
from greater_fast.search.selection import score_prompts, select
from greater_fast.search.state import LoopState
from tests.cases import FakeEngine, as_engine, made_up, table_layouts, tiny_lm

PROMPT = (1, 2, 3)
POSITION = Position(4, 1, PROMPT)
Table = dict[int, list[list[Rollout]]]  # token at the position -> of each model, its rows


def engines_of(table: Table, num_models: int, batch_size: int = 1) -> list[FakeEngine]:
    def answers(model: int) -> Any:
        return lambda ids, row: table[ids[1]][model][row]

    return [FakeEngine(answers(model), batch_size) for model in range(num_models)]


def scored(engines: list[FakeEngine], num_rows: int, token: int, config: Config) -> Scored:
    prompts = [POSITION.with_token(token)]
    models = Ensemble([as_engine(engine) for engine in engines])
    (found,) = score_prompts(models, table_layouts(num_rows), prompts, config)
    assert found
    return found


def test_an_objective_is_the_mean_of_the_models_own() -> None:
    rows = [[made_up(True, -2.0, 1.0)] * 2, [made_up(False, -1.0, 3.0), made_up(True, -1.0, 3.0)]]
    engines = engines_of({2: rows}, 2)
    for objective in ("error", "loss"):
        config = Config(objective=objective)
        whole = scored(engines, 2, 2, config)
        assert whole.rollouts == (*rows[0], *rows[1])
        own = []
        for model, engine in enumerate(engines):
            (alone,) = score_prompts(as_engine(engine), table_layouts(2), [PROMPT], config)
            assert alone
            assert list(alone.rollouts) == rows[model]
            own.append(alone.objective.value(config))
        assert whole.objective.value(config) == pytest.approx(sum(own) / 2, rel=1e-15)
    assert whole.objective.error_rate == 0.75


def test_each_model_is_asked_with_its_own_ends_and_drafts() -> None:
    seen: list[Any] = []

    class Seeing(FakeEngine):
        def run(self, requests: Any, on_finished: Any = None) -> list[Rollout | None]:
            seen.append(requests)
            return super().run(requests, on_finished)

    engines = [Seeing(lambda ids, row: made_up(False)) for _ in range(2)]
    engines[1].lm.end_ids = frozenset([11])
    drafts = [(n,) for n in range(4)]
    models = Ensemble([as_engine(engine) for engine in engines])
    score_prompts(models, table_layouts(2), [(5, 6), (5, 7)], Config(), drafts=drafts)
    assert [len(requests) for requests in seen] == [4, 4]
    for model, requests in enumerate(seen):
        assert {r.end_ids for r in requests} == {frozenset([(9, 11)[model]])}
        assert [r.draft_ids for r in requests] == 2 * drafts[2 * model : 2 * model + 2]
        assert [r.sample_key for r in requests] == [0, 1, 0, 1]
    assert models.num_generated_tokens == 16


def test_what_one_model_shows_costs_the_next_nothing() -> None:
    """Token 5 is over the mean by the first model's rows alone, token 9 by no one's."""
    table = {
        2: [[made_up(False, nll=1.0)] * 3] * 2,
        5: [[made_up(False, nll=9.0)] * 3, [made_up(False, nll=0.0)] * 3],
        9: [[made_up(False, nll=1.5)] * 3, [made_up(False, nll=0.1)] * 3],
    }
    config, engines = Config(), engines_of(table, 2)
    state = LoopState(scored(engines_of(table, 2), 3, 2, config))
    models = Ensemble([as_engine(engine) for engine in engines])
    found = select(models, table_layouts(3), {5: -2.0, 9: -1.0}, POSITION, state, config)
    assert engines[0].prompts == [(1, 5, 3), (1, 9, 3)]
    assert engines[1].prompts == [(1, 9, 3)]
    assert len(engines[0].calls) == 4  # the first row of token 5 is enough
    assert found.winner.prompt_ids == (1, 9, 3)
    assert found.scored[0] is None


VALUES = st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0])


@given(data=st.data(), num_models=st.integers(2, 3), objective=st.sampled_from(["error", "loss"]))
def test_giving_up_changes_no_winner(data: Any, num_models: int, objective: str) -> None:
    row = st.builds(made_up, st.booleans(), VALUES.map(lambda v: -v), VALUES)
    rows = st.lists(row, min_size=3, max_size=3)
    tokens = (2, 5, 9)
    table: Table = {
        token: data.draw(st.lists(rows, min_size=num_models, max_size=num_models))
        for token in tokens
    }
    config = Config(objective=objective)
    models = Ensemble([as_engine(engine) for engine in engines_of(table, num_models)])
    state = LoopState(scored(engines_of(table, num_models), 3, 2, config))
    found = select(models, table_layouts(3), {5: 0.0, 9: 1.0}, POSITION, state, config)
    values = {}
    for token in tokens:  # by the models' own objectives, one after the other
        own = []
        for model in table[token]:
            nll = math.fsum(r.prompt_nll for r in model) / 3
            wrong = sum(r.is_wrong for r in model) / 3
            loss = math.fsum(r.answer_loss for r in model) / 3
            own.append(wrong + 0.02 * nll if objective == "error" else loss + 0.2 * nll)
        values[token] = math.fsum(own) / num_models
    lowest = min(values.values())
    winner = found.winner.prompt_ids[1]
    assert values[winner] <= lowest + 2e-6
    if values[2] <= lowest + 0.5e-6:
        assert winner == 2


def test_a_loss_that_is_not_finite_names_the_row_of_its_model() -> None:
    rows = [[made_up(False)] * 3, [made_up(False), made_up(False, math.nan), made_up(False)]]
    with pytest.raises(FloatingPointError, match="the loss of example 1 is not finite"):
        scored(engines_of({2: rows}, 2), 3, 2, Config())


def test_each_model_sees_its_own_rollouts_and_stored_reasonings() -> None:
    first, second = (as_engine(FakeEngine(lambda ids, row: made_up(False))) for _ in range(2))
    rollouts = tuple(made_up(n % 2 == 0, nll=float(n)) for n in range(6))
    config = Config(gradient="both")
    state = LoopState(Scored(PROMPT, objective_of(rollouts, 6), rollouts), step=4)
    state.add(state.incumbent, config)
    assert members(first) == (first,)
    ((engine, seen),) = by_model(first, state)
    assert engine is first
    assert seen is state
    both = Ensemble([first, second])
    assert members(both) == (first, second)
    assert [engine for engine, _ in by_model(both, state)] == [first, second]
    for part, (_, own) in enumerate(by_model(both, state)):
        rows = slice(3 * part, 3 * part + 3)
        assert own.incumbent.rollouts == rollouts[rows]
        assert own.reasonings.rows == [[Reasoning.of(r)] for r in rollouts[rows]]
        assert (own.step, own.incumbent.prompt_ids) == (4, PROMPT)
    assert len(state.reasonings.rows) == len(state.incumbent.rollouts) == 6


def directions(*seeds: int) -> list[torch.Tensor]:
    return [torch.randn(48, generator=torch.Generator().manual_seed(seed)) for seed in seeds]


def test_scores_of_several_models_are_sums_in_units_of_their_spread() -> None:
    lms, gradients = [tiny_lm(), tiny_lm("gemma2", "sentencepiece")], directions(0, 1)
    mask = torch.zeros(800, dtype=torch.bool)
    mask[30:700] = True
    total = torch.zeros(800, dtype=torch.float64)
    for lm, gradient in zip(lms, gradients, strict=True):
        own = lm.embed(torch.arange(800)).double() @ gradient.double()
        total += own / (own[30:700] - own[30:700].mean()).square().mean().sqrt()
    scores = first_order(gradients, lms, mask, Config())
    ids = [40, 31, 699]
    found = {token_id: value for value, token_id in scores.ranked(ids)}
    assert list(found) == sorted(ids, key=total.tolist().__getitem__)
    assert found == {i: pytest.approx(total[i].item(), rel=1e-5) for i in ids}
    allowed = mask.clone()
    allowed[total.argmin()] = False
    expected = [i for i in total.argsort().tolist() if allowed[i]][:7]
    assert [token_id for _, token_id in scores.lowest(allowed, 7)] == expected
    assert scores.ranked([]) == []


def test_no_model_outweighs_another() -> None:
    lms, (first, second), mask = (
        [tiny_lm()] * 2,
        directions(0, 1),
        torch.ones(800, dtype=torch.bool),
    )
    plain = first_order([first, second], lms, mask, Config()).ranked(range(800))
    scaled = first_order([first, 1e4 * second], lms, mask, Config()).ranked(range(800))
    assert [v for v, _ in scaled] == pytest.approx([v for v, _ in plain], rel=1e-4, abs=1e-4)


def test_a_model_without_a_gradient_has_no_say() -> None:
    (gradient,), mask = directions(0), torch.ones(800, dtype=torch.bool)
    lms, config = [tiny_lm()] * 2, Config()
    ranked = first_order([gradient, torch.zeros(48)], lms, mask, config).ranked(range(800))
    alone = first_order([gradient], lms[:1], mask, config).ranked(range(800))
    assert [i for _, i in ranked] == [i for _, i in alone]
    nothing = first_order([torch.zeros(48)] * 2, lms, mask, config)
    assert nothing.ranked([5, 4]) == [(0.0, 4), (0.0, 5)]
    assert nothing.lowest(mask, 3) == [(0.0, 0), (0.0, 1), (0.0, 2)]


def test_the_engine_of_one_model_is_asked_directly() -> None:
    """No ensemble is made of one: what it gets are the requests themselves."""
    engine: Engine = as_engine(FakeEngine(lambda ids, row: made_up(False)))
    (found,) = score_prompts(engine, table_layouts(2), [PROMPT], Config())
    assert found
    assert found.objective.num_rows == 2
