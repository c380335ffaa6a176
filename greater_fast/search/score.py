"""Stage 3, score: what a token in this place does to the loss, to first order (GREATER, step 2).

The score of a token is `<embed(v), gradient>`, one dot product; the lowest are the shortlist. The
control draws tokens instead.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property
from itertools import zip_longest
from typing import Protocol

import torch

from greater_fast.config import Config
from greater_fast.examples.layout import Layouts
from greater_fast.kernels.dispatch import MAX_K, candidate_scores, vocabulary_top_k
from greater_fast.model.lm import LM
from greater_fast.model.parallel.lockstep import lockstep
from greater_fast.model.parallel.sizes import is_part
from greater_fast.search.nouns import Candidates, Position

_MAX_ROUNDS = 16  # of tokens that may not survive their text

Scores = list[tuple[float | None, int]]  # score, None of what was drawn, and token id


class Ranking(Protocol):
    """Tokens at a place, those first that are to be tried first."""

    def ranked(self, ids: Sequence[int]) -> Scores:
        """Tokens, lowest score first; ties to the lower id."""

    def lowest(self, allowed: torch.Tensor, number: int) -> Scores:
        """So many of the allowed ids [V] bool at most, lowest score first; ties to the lower id."""


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
    the mu are drawn instead: there are no gradients then, and no scores (None). Where no gradient
    could be taken the shortlist is empty.
    """
    ranking: Ranking = Drawn(config.seed, position.step)
    if config.takes_gradients:
        if not gradients:
            return {}
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


def first_order(
    gradients: Sequence[torch.Tensor], lms: Sequence[LM], mask: torch.Tensor, config: Config
) -> Ranking:
    """The scores of one model by its gradient [D], or of several by the gradient of each.

    `mask` [V] bool are the ids that a prompt may be changed to.
    """
    single = [_Single(*pair, config) for pair in zip(gradients, lms, strict=True)]
    return single[0] if len(single) == 1 else _Summed(single, mask)


class _Single:
    """One model: dot products of its gradient [D] with its embeddings."""

    def __init__(self, gradient: torch.Tensor, lm: LM, config: Config) -> None:
        self._gradient, self._lm, self._kernels = gradient, lm, config.kernels

    @torch.no_grad()
    def ranked(self, ids: Sequence[int]) -> Scores:
        if not ids:
            return []
        return _sorted(self.values(torch.tensor(ids)).tolist(), ids)

    @torch.no_grad()
    def lowest(self, allowed: torch.Tensor, number: int) -> Scores:
        lm = self._lm
        matrix, _, scale = _embeddings(lm, torch.arange(lm.vocab_size, device=lm.device))
        ids, scores = vocabulary_top_k(
            *(matrix, self._gradient[None], allowed.to(lm.device), number, scale, self._kernels)
        )
        pairs = zip(scores[0].tolist(), ids[0].tolist(), strict=True)
        return [(value, token_id) for value, token_id in pairs if token_id >= 0]

    @torch.no_grad()
    def values(self, ids: torch.Tensor) -> torch.Tensor:
        """Scores [K] of ids [K]."""
        matrix, rows, scale = _embeddings(self._lm, ids.to(self._lm.device))
        return candidate_scores(matrix, self._gradient[None], rows, scale, self._kernels)[0]


class _Summed:
    """Several models: the sum of their scores, each divided by the spread of the model's own.

    Else a model with large embeddings, or a loss that is easily moved, would decide alone. The
    spread is the standard deviation over all tokens that a prompt may be changed to: a constant
    added to all scores of a model changes no order, and so no weight. Where a model tells no token
    from another, it has no say.
    """

    def __init__(self, models: Sequence[_Single], mask: torch.Tensor) -> None:
        self._models, self._mask = models, mask

    def ranked(self, ids: Sequence[int]) -> Scores:
        return _sorted(self._values[list(ids)].tolist(), ids)

    def lowest(self, allowed: torch.Tensor, number: int) -> Scores:
        ids = allowed.nonzero().flatten()
        values, order = self._values[ids].sort(stable=True)
        first = order[:number]
        return list(zip(values[:number].tolist(), ids[first].tolist(), strict=True))

    @cached_property
    def _values(self) -> torch.Tensor:
        """Scores [V] float64 on the CPU, 0 where no prompt may be changed to an id."""
        ids = self._mask.nonzero().flatten()
        total = torch.zeros(len(self._mask), dtype=torch.float64)
        for model in self._models:
            # Twice as many bits: scores that differ still do so when they are divided.
            values = model.values(ids).cpu().double()
            spread = values.std(correction=0)
            if spread > 0:
                total[ids] += values / spread
        return total


class Drawn:
    """The control: tokens in a random order, that of the search's seed and step, without scores."""

    def __init__(self, seed: int, step: int) -> None:
        self._source = random.Random(f"{seed}/shortlist/{step}")

    def ranked(self, ids: Sequence[int]) -> Scores:
        """Tokens in a drawn order."""
        return self._draw(ids, len(ids))

    def lowest(self, allowed: torch.Tensor, number: int) -> Scores:
        """So many of the allowed ids [V] bool at most, drawn."""
        ids = allowed.nonzero().flatten().tolist()
        return self._draw(ids, min(number, len(ids)))

    def _draw(self, ids: Sequence[int], number: int) -> Scores:
        return [(None, token_id) for token_id in self._source.sample(ids, number)]


def _sorted(values: Sequence[float], ids: Sequence[int]) -> Scores:
    return [*sorted(zip(values, ids, strict=True))]


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
