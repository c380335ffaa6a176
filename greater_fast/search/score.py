"""Stage 3, score: one dot product a candidate, the lowest are the shortlist (GREATER, step 2)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import zip_longest

import torch

from greater_fast.config import Config
from greater_fast.examples.layout import Layouts
from greater_fast.kernels.dispatch import MAX_K
from greater_fast.model.lm import LM
from greater_fast.search.first_order import FirstOrder, Scores, first_order
from greater_fast.search.nouns import Candidates, Position

_MAX_ROUNDS = 16  # of tokens that may not survive their text


def score(
    gradients: Sequence[torch.Tensor],
    lms: Sequence[LM],
    layouts: Layouts,
    candidates: Candidates,
    position: Position,
    config: Config,
) -> dict[int, float]:
    """Shortlist: the mu tokens with the lowest scores, as id -> score, lowest first.

    The score `<embed(v), gradient>` is the change of the loss to first order, by the gradient [D]
    and the embeddings of the model; of several models it is the sum of theirs, each in units of its
    own spread over the vocabulary. `candidates` are the proposals; `config.candidates` says whether
    the mu come of these, of the whole vocabulary, or of both by turns: the proposals are part of
    the vocabulary, whose lowest would else be all of them. With `shortlist="random"` (the control)
    the mu are drawn instead, and keep their scores.
    """
    scores = first_order(gradients, lms, layouts.candidate_mask, config)
    proposed: Scores = []
    found: Scores = []
    if config.candidates != "vocabulary":
        proposed = _proposed(scores, candidates, position, config)
    if config.candidates != "lm":
        found = _found(scores, layouts, position, config)
    by_turns = [pair for turn in zip_longest(proposed, found) for pair in turn if pair]
    shortlist: dict[int, float] = {}
    for value, token_id in by_turns:
        if len(shortlist) < config.shortlist_size:
            shortlist.setdefault(token_id, value)
    return {token_id: value for value, token_id in sorted((v, i) for i, v in shortlist.items())}


def _proposed(
    scores: FirstOrder, candidates: Candidates, position: Position, config: Config
) -> Scores:
    """The mu proposals with the lowest scores, or drawn."""
    ranked = sorted(scores.of(candidates.ids))
    if config.shortlist == "random":
        ranked = _source(position, config).sample(ranked, min(config.shortlist_size, len(ranked)))
    return ranked[: config.shortlist_size]


def _found(scores: FirstOrder, layouts: Layouts, position: Position, config: Config) -> Scores:
    """The mu tokens of the vocabulary with the lowest scores, or drawn, that survive their text.

    Fewer come out where nearly none of the first hundreds survive.
    """
    allowed = position.allowed(layouts.candidate_mask, layouts.words)
    source = _source(position, config)
    number = min(MAX_K, 4 * config.shortlist_size)  # at a time: most of them survive
    found: Scores = []
    for _ in range(_MAX_ROUNDS):
        if config.shortlist == "random":
            ids = allowed.nonzero().flatten().tolist()
            tried = scores.of(source.sample(ids, min(number, len(ids))))
        else:
            tried = scores.lowest(allowed, number)
        if not tried:
            break
        allowed[[token_id for _, token_id in tried]] = False
        survive = layouts.round_trips([position.with_token(token_id) for _, token_id in tried])
        found += [pair for pair, ok in zip(tried, survive, strict=True) if ok]
        if len(found) >= config.shortlist_size:
            break
        number = min(MAX_K, 2 * number)
    return found[: config.shortlist_size]


def _source(position: Position, config: Config) -> random.Random:
    return random.Random(f"{config.seed}/shortlist/{position.step}")
