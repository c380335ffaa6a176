"""Scores of each row and candidate at a place, so that any rows can be added up later.

A score is a predicted change of the row's loss where a candidate takes the incumbent's place: to
first order by a gradient, or read from the stored reasonings under the candidate's prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.evidence.chains import Floats, Ids
from greater_fast.config import Config
from greater_fast.engine import Engine, RolloutRequest
from greater_fast.examples.layout import Layouts
from greater_fast.search.gradient import reasoning_gradients
from greater_fast.search.nouns import Position
from greater_fast.search.reasonings import Reasoning, advantages
from greater_fast.search.selection import score_prompts

MAX_WEIGHT = 5.0  # of a reasoning's importance, at which it is clipped
Reasonings = Sequence[Sequence[Reasoning]]  # of each row
Doubles = npt.NDArray[np.float64]


def first_order(
    engine: Engine, gradients: torch.Tensor, position: Position, candidate_ids: Ids
) -> Floats:
    """Scores [N, K] of the candidates against the incumbent, by the rows' gradients [N, D]."""
    assert position.incumbent_id is not None
    ids = torch.tensor([position.incumbent_id, *candidate_ids], device=engine.lm.device)
    embedded = engine.lm.embed(ids).to(gradients.dtype)
    scores: Floats = (gradients @ (embedded[1:] - embedded[0]).T).float().cpu().numpy()
    return scores


def sampled_reasonings(
    sampler: Engine, layouts: Layouts, position: Position, config: Config
) -> list[list[Reasoning]]:
    """`num_reasonings` reasonings of each row, drawn by an engine that samples.

    The noise is that of the row and the draw, the same at all places: chains of stored results were
    begun so, and go on with it. `draw_reasonings` has noise of its own at each.
    """
    num_rows, number = len(layouts), config.num_reasonings
    again = replace(layouts, rows=layouts.rows * number)  # each draw is a row with its own noise
    (scored,) = score_prompts(sampler, again, [position.prompt_ids], config)
    assert scored is not None
    return [[Reasoning.of(r) for r in scored.rollouts[row::num_rows]] for row in range(num_rows)]


def reasoning_scores(
    engine: Engine,
    layouts: Layouts,
    by_kind: Mapping[str, Reasonings],
    position: Position,
    candidate_ids: Ids,
    config: Config,
) -> dict[str, Floats]:
    """First-order scores [N, K] by the reasoning's gradient, of stored reasonings and of sampled.

    `by_kind` are the reasonings by the value of `config.reasonings` that says which they are.
    """
    return {
        name: first_order(
            engine,
            reasoning_gradients(
                engine, layouts, reasonings, position, replace(config, reasonings=name)
            ),
            position,
            candidate_ids,
        )
        for name, reasonings in by_kind.items()
    }


def rescored(
    engine: Engine,
    layouts: Layouts,
    stored: Reasonings,
    prompts: Sequence[Ids],
    writers: Mapping[tuple[int, Ids], Ids],
) -> tuple[dict[str, Floats], Floats]:
    """Scores [N, K] by the stored reasonings under the prompts, the incumbent's and K others.

    `rescored` is the loss of the reasoning's gradient itself, in place of its first order;
    `weighted` the share of wrong ones, each by its importance: how much likelier it is than under
    the prompt that wrote it (`writers`, by row and ids), clipped. With them comes [N] the effective
    number of reasonings, (sum w)^2 / sum w^2, mean over the candidates. Rows whose reasonings are
    all right, or all wrong, get 0.
    """
    mixed = [list(own) if any(advantages(own)) else [] for own in stored]
    logprobs = _logprobs(engine, layouts, mixed, prompts, writers)
    num_candidates = len(prompts) - 1
    scores = {
        name: np.zeros((len(stored), num_candidates), np.float32)
        for name in ("rescored", "weighted")
    }
    num_effective = np.zeros(len(stored), np.float32)
    for row, (own, under) in enumerate(zip(mixed, logprobs, strict=True)):
        if own:
            losses = surrogate_losses(own, under[:, :-1])
            errors, effective = weighted_errors(own, under[:, :-1] - under[:, -1:])
            scores["rescored"][row] = losses[1:] - losses[0]
            scores["weighted"][row] = errors[1:] - errors[0]
            num_effective[row] = effective[1:].mean()
    return scores, num_effective


def surrogate_losses(own: Sequence[Reasoning], logprobs: Doubles) -> Doubles:
    """Losses [C] of `reasoning_gradients` for a row's reasonings with log-probabilities [n, C]."""
    num_tokens = np.array([len(reasoning.written_ids) for reasoning in own])
    weights = np.array(advantages(own)) / num_tokens / len(own)
    losses: Doubles = -weights @ logprobs
    return losses


def weighted_errors(own: Sequence[Reasoning], log_ratios: Doubles) -> tuple[Doubles, Doubles]:
    """Estimated errors [C] and effective numbers [C] by log importance weights [n, C]."""
    clipped = np.minimum(log_ratios, np.log(MAX_WEIGHT))
    weights = np.exp(clipped - clipped.max(0))  # of the largest: no sum is 0
    is_wrong = np.array([not reasoning.is_right for reasoning in own], np.float64)
    errors: Doubles = is_wrong @ weights / weights.sum(0)
    return errors, weights.sum(0) ** 2 / (weights**2).sum(0)


def _logprobs(
    engine: Engine,
    layouts: Layouts,
    stored: Reasonings,
    prompts: Sequence[Ids],
    writers: Mapping[tuple[int, Ids], Ids],
) -> list[Doubles]:
    """Of each row [n, C + 1]: its reasonings under the prompts, then under their writers.

    The engine reads a reasoning as it reads a prompt, whose NLL is at temperature 1.
    """
    flat = [(row, reasoning.written_ids) for row, own in enumerate(stored) for reasoning in own]
    requests = []
    for row, written in flat:
        for prompt_ids in (*prompts, writers[row, written]):
            context = layouts.context_ids(row, prompt_ids)
            ids = (*context, *written)
            requests.append(RolloutRequest(ids, 1, frozenset(), (len(context), len(ids))))
    means = [-rollout.prompt_nll for rollout in engine.run(requests) if rollout]
    lengths = np.array([len(written) for _, written in flat])
    sums = np.array(means).reshape(len(flat), len(prompts) + 1) * lengths[:, None]
    return np.split(sums, np.cumsum([len(own) for own in stored])[:-1])
