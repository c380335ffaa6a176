"""Stage 3, score: one dot product a candidate, the lowest are the shortlist (GREATER, step 2)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import torch

from greater_fast.config import Config
from greater_fast.examples.layout import Layouts
from greater_fast.kernels.dispatch import MAX_K
from greater_fast.model.lm import LM
from greater_fast.search.first_order import Drawn, Ranking, Scores, first_order
from greater_fast.search.nouns import Candidates, Position

_MAX_ROUNDS = 16  # of tokens that may not survive their text


def score(
    gradients: Sequence[torch.Tensor],
    lms: Sequence[LM],
    layouts: Layouts,
    candidates: Candidates,
    position: Position,
    config: Config,
) -> dict[int, float | None]:
    """Shortlist: the mu tokens with the lowest scores, as id -> score, lowest first.

    The score `<embed(v), gradient>` is the change of the loss to first order, by the gradient [D]
    and the embeddings of the model; of several models it is the sum of theirs, each in units of its
    own spread over the vocabulary. `candidates` are the proposals; `config.candidates` says whether
    the mu come of these, of the whole vocabulary, or of both by turns: the proposals are part of
    the vocabulary, whose lowest would else be all of them. With `shortlist="random"` (the control)
    the mu are drawn instead: there are no gradients then, and no scores (None).
    """
    ranking: Ranking = Drawn(config.seed, position.step)
    if config.takes_gradients:
        ranking = first_order(gradients, lms, layouts.candidate_mask, config)
    proposed: Scores = []
    found: Scores = []
    if config.candidates != "vocabulary":
        proposed = ranking.ranked(candidates.ids)[: config.shortlist_size]
    if config.candidates != "lm":
        found = _found(ranking, layouts, position, config)
    by_turns = [pair for turn in zip_longest(proposed, found) for pair in turn if pair]
    shortlist: dict[int, float | None] = {}
    for value, token_id in by_turns:
        if len(shortlist) < config.shortlist_size:
            shortlist.setdefault(token_id, value)
    return dict(sorted(shortlist.items(), key=lambda pair: (pair[1] or 0.0, pair[0])))


def _found(ranking: Ranking, layouts: Layouts, position: Position, config: Config) -> Scores:
    """The first mu tokens of the vocabulary that survive their text.

    Fewer come out where nearly none of the first hundreds survive.
    """
    allowed = position.allowed(layouts.candidate_mask, layouts.words)
    number = min(MAX_K, 4 * config.shortlist_size)  # at a time: most of them survive
    found: Scores = []
    for _ in range(_MAX_ROUNDS):
        tried = ranking.lowest(allowed, number)
        if not tried:
            break
        allowed[[token_id for _, token_id in tried]] = False
        survive = layouts.round_trips([position.with_token(token_id) for _, token_id in tried])
        found += [pair for pair, ok in zip(tried, survive, strict=True) if ok]
        if len(found) >= config.shortlist_size:
            break
        number = min(MAX_K, 2 * number)
    return found[: config.shortlist_size]
