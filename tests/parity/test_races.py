"""A race with a tiny model: both engines drop the same candidates after the same rows."""

import dataclasses

from greater_fast.engine import Engine
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
