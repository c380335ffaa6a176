"""Stage 3, score: one dot product a candidate, the lowest are the shortlist (GREATER, step 2)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import zip_longest

import torch

from greater_fast.config import Config
from greater_fast.examples.layout import Layouts
from greater_fast.kernels.dispatch import MAX_K, candidate_scores, vocabulary_top_k
from greater_fast.model.lm import LM
from greater_fast.model.parallel.lockstep import lockstep
from greater_fast.model.parallel.sizes import is_part
from greater_fast.search.nouns import Candidates, Position

_MAX_ROUNDS = 16  # of tokens that may not survive their text
Scores = list[tuple[float, int]]  # score and token id


def score(
    gradient: torch.Tensor,
    lm: LM,
    layouts: Layouts,
    candidates: Candidates,
    position: Position,
    config: Config,
) -> dict[int, float]:
    """Shortlist: the mu tokens with the lowest scores, as id -> score, lowest first.

    The score `<embed(v), gradient>` is the change of the loss to first order. `candidates` are the
    proposals; `config.candidates` says whether the mu come of these, of the whole vocabulary, or of
    both by turns: the proposals are part of the vocabulary, whose lowest would else be all of them.
    With `shortlist="random"` (the control) the mu are drawn instead, and keep their scores.
    """
    proposed: Scores = []
    found: Scores = []
    if config.candidates != "vocabulary":
        proposed = _proposed(gradient, lm, candidates, position, config)
    if config.candidates != "lm":
        found = _found(gradient, lm, layouts, position, config)
    by_turns = [pair for turn in zip_longest(proposed, found) for pair in turn if pair]
    shortlist: dict[int, float] = {}
    for value, token_id in by_turns:
        if len(shortlist) < config.shortlist_size:
            shortlist.setdefault(token_id, value)
    return {token_id: value for value, token_id in sorted((v, i) for i, v in shortlist.items())}


def _proposed(
    gradient: torch.Tensor, lm: LM, candidates: Candidates, position: Position, config: Config
) -> Scores:
    """The mu proposals with the lowest scores, or drawn."""
    ranked = sorted(_scored(gradient, lm, candidates.ids, config))
    if config.shortlist == "random":
        ranked = _source(position, config).sample(ranked, min(config.shortlist_size, len(ranked)))
    return ranked[: config.shortlist_size]


def _found(
    gradient: torch.Tensor, lm: LM, layouts: Layouts, position: Position, config: Config
) -> Scores:
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
            tried = _scored(gradient, lm, source.sample(ids, min(number, len(ids))), config)
        else:
            tried = _lowest(gradient, lm, allowed, number, config)
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


@torch.no_grad()
def _scored(gradient: torch.Tensor, lm: LM, ids: Sequence[int], config: Config) -> Scores:
    if not ids:
        return []
    matrix, rows, scale = _embeddings(lm, torch.tensor(ids, device=lm.device))
    scores = candidate_scores(matrix, gradient[None], rows, scale, config.kernels)
    return list(zip(scores[0].tolist(), ids, strict=True))


@torch.no_grad()
def _lowest(
    gradient: torch.Tensor, lm: LM, allowed: torch.Tensor, number: int, config: Config
) -> Scores:
    """So many of the allowed tokens at most, lowest score first."""
    matrix, _, scale = _embeddings(lm, torch.arange(lm.vocab_size, device=lm.device))
    mask = allowed.to(lm.device)
    ids, scores = vocabulary_top_k(matrix, gradient[None], mask, number, scale, config.kernels)
    pairs = zip(scores[0].tolist(), ids[0].tolist(), strict=True)
    return [(value, token_id) for value, token_id in pairs if token_id >= 0]


def _embeddings(lm: LM, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A matrix, its rows that embed `ids`, and their scale (Gemma's module has one).

    The matrix is the model's own, unless its module does something else with it.
    """
    module = lm.model.get_input_embeddings()
    if is_part(module.weight):  # the module brings the rows that other ranks have
        with lockstep(lm.ranks):
            return lm.embed(ids), torch.arange(len(ids), device=ids.device), 1.0
    scale = torch.as_tensor(getattr(module, "embed_scale", 1.0)).to(lm.dtype)
    plain = module.weight[ids[:1]] * scale
    with lm.lock:  # another run's gradient puts its own embeddings in there
        if plain.is_floating_point() and torch.allclose(lm.embed(ids[:1]), plain):
            return module.weight, ids, float(scale)
        return lm.embed(ids), torch.arange(len(ids), device=ids.device), 1.0
