"""The control without a search: the best of n random prompts, made of the model's own proposals."""

import random
from collections.abc import Sequence

from greater_fast.config import Config
from greater_fast.engine import Engine
from greater_fast.examples.extractor import derive_extractor
from greater_fast.examples.layout import Layouts, build_layouts
from greater_fast.examples.splits import Splits
from greater_fast.model.lm import LM
from greater_fast.rollouts.choose import make_engine
from greater_fast.runs.evaluation import Evaluation, evaluate_prompt
from greater_fast.search.nouns import Position, Scored
from greater_fast.search.propose import propose
from greater_fast.search.selection import score_prompts

Prompt = tuple[int, ...]


def best_of_random(
    lm: LM, splits: Splits, prompt: str, num_prompts: int, config: Config
) -> Evaluation:
    """Test rows by the best of n random prompts, chosen as `optimize` chooses.

    All are scored on the training rows; the best few and the initial one on the development rows,
    where the initial one wins a tie, then the better on the training rows.
    """
    extractor = derive_extractor([e.answer for e in (*splits.train, *splits.dev)])
    train, dev, test = (
        build_layouts(lm, rows, prompt, extractor, config)
        for rows in (splits.train, splits.dev, splits.test)
    )
    longest = max(rows.longest_sequence(config) for rows in (train, dev, test))
    engine, _ = make_engine(lm, config, longest)
    prompts = random_prompts(engine, train, num_prompts, config)
    finalists = _lowest(engine, train, prompts, config)[: config.num_finalists]
    best = max(
        [train.prompt_ids, *(scored.prompt_ids for scored in finalists)],
        key=lambda ids: evaluate_prompt(engine, dev, ids, config, train.longest_answer).num_correct,
    )
    return evaluate_prompt(engine, test, best, config, train.longest_answer)


def random_prompts(
    engine: Engine, layouts: Layouts, num_prompts: int, config: Config
) -> list[Prompt]:
    """Distinct prompts: each has 1 to `steps` random places changed, one after the other.

    A place gets a random one of the tokens that the model proposes for it there. Fewer come out
    where hardly anything is proposed.
    """
    source = random.Random(f"{config.seed}/random_prompts")
    found: dict[Prompt, None] = {}
    step = 0
    for _ in range(20 * num_prompts):
        if len(found) == num_prompts:
            break
        ids = layouts.prompt_ids
        for index in _places(source, len(ids), config.steps):
            position = Position(step, index, ids)
            candidates = propose(engine, layouts, position, config).ids
            ids = position.with_token(source.choice(candidates)) if candidates else ids
            step += 1
        if ids != layouts.prompt_ids:
            found[ids] = None
    return list(found)


def _places(source: random.Random, num_tokens: int, most: int) -> list[int]:
    most = min(num_tokens, most)
    return sorted(source.sample(range(num_tokens), source.randint(1, most)))


def _lowest(
    engine: Engine, layouts: Layouts, prompts: Sequence[Prompt], config: Config
) -> list[Scored]:
    """Prompts by their objective on the rows, lowest first; each is scored in full."""
    scored = [score_prompts(engine, layouts, [ids], config)[0] for ids in prompts]
    return sorted((s for s in scored if s), key=lambda s: s.objective.value(config))
