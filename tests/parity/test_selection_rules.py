"""Selection by a race and by a metric with a tiny model, beside plain readings, by all engines."""

import dataclasses
import random

import pytest
import torch

from greater_fast.engine import Engine
from greater_fast.examples.data import Example
from greater_fast.examples.layout import Layouts
from greater_fast.model.lm import LM
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.plain import PlainRolloutEngine
from greater_fast.search.nouns import Position
from greater_fast.search.selection import score_prompts, select
from greater_fast.search.state import LoopState
from tests.cases import layouts_of, small_config, tiny_lm

CONFIG = small_config(race=0.5, max_new_tokens=3)


def half_right(lm: LM, num_rows: int) -> Layouts:
    """Rows of whose answers, one token each, the model has every other one right."""
    layouts = layouts_of(lm, num_rows)
    engine = PlainRolloutEngine(lm)
    (found,) = score_prompts(engine, layouts, [layouts.prompt_ids], CONFIG)
    assert found
    contexts = [
        (
            *layouts.context_ids(row, layouts.prompt_ids),
            *rollout.reasoning_ids,
            *layouts.extractor_ids,
        )
        for row, rollout in enumerate(found.rollouts)
    ]
    liked = engine.next_logits(contexts).argmax(-1).tolist()
    rows = [
        dataclasses.replace(row, answer_ids=(token + number % 2,))
        for number, (row, token) in enumerate(zip(layouts.rows, liked, strict=True))
    ]
    return dataclasses.replace(layouts, rows=tuple(rows))


def lost_after(errors: list[bool], rival: list[bool], order: list[int]) -> int | None:
    """After how many rows a wealth of 1 has become 1/alpha, 3/4 of it bet on the incumbent."""
    wealth = 1.0
    for number, row in enumerate(order, start=1):
        if errors[row] != rival[row]:
            wealth *= 1.75 if errors[row] else 0.25
        if wealth >= 1 / CONFIG.race and number < len(order):
            return number
    return None


def test_engines_drop_the_same() -> None:
    lm = tiny_lm("gemma2", "sentencepiece")
    layouts = half_right(lm, 12)
    position = Position(1, len(layouts.prompt_ids) - 1, layouts.prompt_ids)
    shortlist = dict.fromkeys((20, 22, 23), 0.0)
    engines: list[Engine] = [
        RolloutEngine(lm, kv_cache_bytes=1 << 24),
        RolloutEngine(lm, kv_cache_bytes=1 << 24, max_tokens=24),  # few at a time
        PlainRolloutEngine(lm, batch_size=3),
    ]
    found, num_tokens = [], []
    for engine in engines:
        (incumbent,) = score_prompts(engine, layouts, [layouts.prompt_ids], CONFIG)
        assert incumbent
        assert incumbent.objective.num_wrong == 6
        state = LoopState(incumbent)
        before = engine.num_generated_tokens
        selection = select(engine, layouts, shortlist, position, state, CONFIG)
        num_tokens.append(engine.num_generated_tokens - before)
        known = [list(outcomes) for outcomes in (state.scored, state.given_up)]
        found.append((selection.dropped, state.dropped, known, selection.winner.prompt_ids))
    assert found[0][0].keys() == {20, 22}
    assert len(found[0][2][1]) == 1  # and one was given up
    assert all(other == found[0] for other in found)
    assert num_tokens[1] < num_tokens[0]  # what was dropped was begun no more
    order = random.Random(f"{CONFIG.seed}/race/{position.step}").sample(range(12), 12)
    prompts = [position.prompt_ids, *(position.with_token(token) for token in shortlist)]
    rival, *errors = (
        [rollout.is_wrong for rollout in scored.rollouts]
        for scored in score_prompts(PlainRolloutEngine(lm), layouts, prompts, CONFIG)
        if scored
    )
    expected = {
        token: lost_after(own, rival, order)
        for token, own in zip(shortlist, errors, strict=True)
        if position.with_token(token) not in found[0][2][1]  # the bound had given it up
    }
    assert found[0][0] == expected == {20: expected[20], 22: expected[22]}


def worth(text: str, _: Example) -> float:
    """Of a tiny model's answers, which are never right, some are worth more than others."""
    return sum(map(ord, text)) % 5 / 4


def greedy(lm: LM, ids: tuple[int, ...], limit: int) -> tuple[int, ...]:
    found: list[int] = []
    with torch.inference_mode():
        while len(found) < limit:
            logits = lm.model(torch.tensor([[*ids, *found]])).logits[0, -1]
            token = int(logits.argmax())
            if token in lm.end_ids:
                break
            found.append(token)
    return tuple(found)


@pytest.mark.parametrize(("family", "kind"), [("llama", "llama3"), ("gemma2", "sentencepiece")])
def test_a_metric_measures_what_the_model_answers(family: str, kind: str) -> None:
    """Each answer as the model alone would write it; the lowest mean of 1 - metric wins."""
    lm, config = tiny_lm(family, kind), small_config(error_fluency_weight=0.0)
    layouts = dataclasses.replace(layouts_of(lm, 6), metric=worth)
    position = Position(1, len(layouts.prompt_ids) - 1, layouts.prompt_ids)
    tokens = (position.incumbent_id, 20, 22, 23)
    expected = {}
    for token in tokens:
        values = []
        for number, row in enumerate(layouts.rows):
            context = layouts.context_ids(number, position.with_token(token))
            reasoning = greedy(lm, context, config.max_new_tokens)
            asked = (*context, *reasoning, *layouts.extractor_ids)
            answer = greedy(lm, asked, layouts.answer_limit)
            values.append(worth(layouts.predicted(answer), row.example))
        expected[token] = 1 - sum(values) / len(values)
    assert len(set(expected.values())) > 2
    engines: list[Engine] = [RolloutEngine(lm, kv_cache_bytes=1 << 24), PlainRolloutEngine(lm)]
    for engine in engines:
        (incumbent,) = score_prompts(engine, layouts, [layouts.prompt_ids], config)
        assert incumbent
        state, shortlist = LoopState(incumbent), dict.fromkeys(tokens[1:], 0.0)
        selection = select(engine, layouts, shortlist, position, state, config)
        for token, scored in zip(tokens[1:], selection.scored, strict=True):
            assert (scored is None) == (expected[token] > expected[tokens[0]] + 1e-9)
            if scored:
                assert scored.objective.error_rate == pytest.approx(expected[token])
        assert incumbent.objective.error_rate == pytest.approx(expected[tokens[0]])
        lowest = min(expected.values())
        winner = selection.winner.prompt_ids[position.index]
        assert expected[winner] == lowest
