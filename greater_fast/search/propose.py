"""Stage 1, propose: the model's own next tokens for a place, agreed across examples.

GREATER, step 1: static mask, top-k, intersection over the examples of a draw, union over the draws,
round trip, count; while too few come out, k doubles and the examples are drawn afresh, 8 rounds at
most: further down the ranks are no likely words, and each costs a tokenisation of the rows.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import torch

from greater_fast.config import Config
from greater_fast.examples.layout import Layouts
from greater_fast.search.ensemble import Models, members
from greater_fast.search.nouns import Candidates, Position

_MAX_ROUNDS = 8
_RANKED_ROWS = 16  # at a time: ranking takes several times the memory of what is ranked


def propose(models: Models, layouts: Layouts, position: Position, config: Config) -> Candidates:
    """Candidates [K] for a place of the prompt, sorted by id; none where nothing is allowed.

    Nor are there any where the vocabulary is searched instead, but for a new place, which holds a
    proposal while the gradient is taken. Examples are drawn by their numbers: the same rows in
    another order give other draws. Several models must agree on each example too.
    """
    if config.candidates == "vocabulary" and not position.grows:
        return Candidates((), (), 0)
    mask = position.without_stutter(layouts.candidate_mask, layouts.words)
    num_allowed = int(mask.sum())
    rankings = _Rankings(models, layouts, position, mask)
    survives: dict[int, bool] = {}
    agreed: list[int] = []
    drawn: set[int] = set()
    top_k = config.top_k
    for round_number in range(_MAX_ROUNDS):
        top_k = config.top_k if round_number == 0 else min(2 * top_k, num_allowed)
        draws = draw_rows(len(layouts), position.step, round_number, config)
        drawn = {row for rows in draws for row in rows}
        rankings.add(drawn)
        agreed = [i for i in rankings.agreed(draws, top_k) if i != position.incumbent_id]
        _round_trip(layouts, position, agreed, survives)
        agreed = [i for i in agreed if survives[i]]
        if len(agreed) >= 2 * config.shortlist_size or top_k >= num_allowed:
            break
    return Candidates(tuple(agreed), rankings.mean_logprobs(drawn, agreed), top_k)


def draw_rows(num_rows: int, step: int, round_number: int, config: Config) -> list[list[int]]:
    """Row numbers of each draw: a function of the seed, the step and the round, of nothing else."""
    source = random.Random(f"{config.seed}/propose/{step}/{round_number}")
    size = min(config.num_proposal_examples, num_rows)
    return [source.sample(range(num_rows), size) for _ in range(config.num_draws)]


def _round_trip(
    layouts: Layouts, position: Position, ids: Iterable[int], survives: dict[int, bool]
) -> None:
    """Fill in which ids give a prompt that survives text and back."""
    new = [i for i in ids if i not in survives]
    survives.update(
        zip(new, layouts.round_trips([position.with_token(i) for i in new]), strict=True)
    )


class _Rankings:
    """Each row's next-token logits, made when it is first drawn, and who is high among them.

    They stay on the model's device: what crosses to the host are ids.
    """

    def __init__(
        self, models: Models, layouts: Layouts, position: Position, mask: torch.Tensor
    ) -> None:
        self._models, self._layouts, self._mask = models, layouts, mask
        self._before = position.prompt_ids[: position.index]
        self._logits: dict[int, torch.Tensor] = {}  # row -> [models, V], in at least float32

    def add(self, rows: Iterable[int]) -> None:
        new = sorted(set(rows) - self._logits.keys())
        if not new:
            return
        contexts = [(*self._layouts.rows[row].head_ids, *self._before) for row in new]
        width = len(self._mask)  # an embedding may be padded further than another
        logits = torch.stack(
            [own.next_logits(contexts)[:, :width] for own in members(self._models)], 1
        )
        self._logits.update(zip(new, logits, strict=True))
        self._mask = self._mask.to(logits.device)

    def agreed(self, draws: Sequence[Sequence[int]], top_k: int) -> list[int]:
        """Allowed ids that are among the `top_k` of every row of a draw, in order."""
        drawn = sorted({row for rows in draws for row in rows})
        high: dict[int, torch.Tensor] = {}  # row -> [V]
        for part in (drawn[i : i + _RANKED_ROWS] for i in range(0, len(drawn), _RANKED_ROWS)):
            logits = torch.stack([self._logits[row] for row in part])  # [R, models, V]
            masked = logits.masked_fill_(~self._mask, -torch.inf)
            of_all = highest(masked.flatten(0, 1), top_k).view(logits.shape).all(1)  # [R, V]
            high.update(zip(part, of_all, strict=True))
        found = torch.zeros_like(self._mask)
        for rows in draws:
            found |= torch.stack([high[row] for row in rows]).all(0)
        return [int(i) for i in (found & self._mask).nonzero()]

    def mean_logprobs(self, rows: Iterable[int], ids: list[int]) -> tuple[float, ...]:
        """Mean log-probability of ids over rows, and models."""
        logits = [self._logits[row] for row in sorted(rows)]
        num_models, width = logits[0].shape
        logprobs = logits[0].new_empty(len(logits) * num_models, width)
        for part, own in zip(logprobs.chunk(len(logits)), logits, strict=True):
            part.copy_(own.log_softmax(-1))
        # Of all tokens: torch adds the columns of a narrower matrix in another order.
        return tuple(logprobs.mean(0)[ids].tolist())


def highest(values: torch.Tensor, k: int) -> torch.Tensor:
    """Which of each row of `values` [R, V] are the k highest, as a mask [R, V].

    Of equals the lower ids are; NaN counts as infinity, above which a sort puts it.
    """
    values = values.nan_to_num(torch.inf, torch.inf, -torch.inf)
    last = values.topk(min(k, values.shape[1]), sorted=False).values.amin(1, keepdim=True)
    above, equal = values > last, values == last
    num_equal = k - above.sum(1, keepdim=True)  # of those that are as high as the last
    return above | (equal & (equal.cumsum(1, dtype=torch.int32) <= num_equal))
