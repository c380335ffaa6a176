"""The control without a search: the best of n random prompts, made of the model's own proposals."""

import math
import random
from collections.abc import Callable, Iterator
from itertools import count, islice

from greater_fast.config import Config
from greater_fast.engine import Engine
from greater_fast.examples.layout import Layouts
from greater_fast.search.nouns import Position
from greater_fast.search.propose import propose
from greater_fast.search.selection import score_prompts
from greater_fast.search.state import LoopState

Prompt = tuple[int, ...]
MOST_CHANGES = 8
_MOST_REPEATS = 200  # draws in a row that bring nothing new: hardly anything is proposed


def score_random(
    engine: Engine,
    layouts: Layouts,
    state: LoopState,
    config: Config,
    is_spent: Callable[[], bool],
) -> int:
    """Score random prompts on the training rows until the budget is spent; how many rounds it took.

    What is found goes into the state, as a search's does. As many prompts as a shortlist has are
    scored side by side, as a search would; none is finished that cannot come to the finals, and the
    initial prompt's reasonings are the drafts.
    """
    prompts = random_prompts(engine, layouts, config)
    drafts = [rollout.reasoning_ids for rollout in state.incumbent.rollouts]
    for num_rounds in count():
        if is_spent():
            return num_rounds
        new = list(islice(prompts, config.shortlist_size))
        if not new:
            return num_rounds
        last = state.best(config.num_finalists, config)[-1].objective.value(config)
        bound = last if len(state.scored) >= config.num_finalists else math.inf
        results = score_prompts(engine, layouts, new, config, bound, drafts)
        for ids, result in zip(new, results, strict=True):
            if result is None:
                state.given_up[ids] = bound
            else:
                state.scored[ids] = result
    raise AssertionError("it counts without end")


def random_prompts(
    engine: Engine, layouts: Layouts, config: Config, most_changes: int = MOST_CHANGES
) -> Iterator[Prompt]:
    """Distinct prompts: each has 1 to `most_changes` random places changed, one after the other.

    A place gets a random one of the tokens that the model proposes for it there. They end where
    hardly anything is proposed.
    """
    source = random.Random(f"{config.seed}/random_prompts")
    found = {layouts.prompt_ids}
    steps, num_repeats = count(), 0
    while num_repeats < _MOST_REPEATS:
        ids = layouts.prompt_ids
        for index in _places(source, len(ids), most_changes):
            position = Position(next(steps), index, ids)
            candidates = propose(engine, layouts, position, config).ids
            ids = position.with_token(source.choice(candidates)) if candidates else ids
        num_repeats = num_repeats + 1 if ids in found else 0
        if ids not in found:
            found.add(ids)
            yield ids


def _places(source: random.Random, num_tokens: int, most: int) -> list[int]:
    most = min(num_tokens, most)
    return sorted(source.sample(range(num_tokens), source.randint(1, most)))
