"""Stage 3, score: one dot product a candidate, the lowest are the shortlist (GREATER, step 2)."""

from __future__ import annotations

import random

import torch

from greater_fast.config import Config
from greater_fast.kernels.reference import candidate_scores
from greater_fast.lm import LM
from greater_fast.nouns import Candidates, Position


def score(
    gradient: torch.Tensor, lm: LM, candidates: Candidates, position: Position, config: Config
) -> dict[int, float]:
    """Shortlist: the mu candidates with the lowest scores, as id -> score, lowest first.

    The score `<embed(v), gradient>` is the change of the loss to first order. With
    `shortlist="random"` (the control) the mu are drawn instead, and keep their scores.
    """
    if not candidates.ids:
        return {}
    with torch.no_grad():
        embeddings = lm.embed(torch.tensor(candidates.ids, device=lm.device))  # [K, D]
        scores = candidate_scores(embeddings, gradient[None])[0].tolist()
    ranked = sorted(zip(scores, candidates.ids, strict=True))
    if config.shortlist == "random":
        source = random.Random(f"{config.seed}/shortlist/{position.step}")
        ranked = sorted(source.sample(ranked, min(config.shortlist_size, len(ranked))))
    return {token_id: value for value, token_id in ranked[: config.shortlist_size]}
