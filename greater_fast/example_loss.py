"""The loss of each example, L = CE(answer) + lambda · NLL(prompt), and its gradient by states.

Logits exist for a few rows at a time, so that none outlives its part of the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from greater_fast.lm import LM

# Logits of a chunk, [rows, V]; softmax and its gradient take as much again a few times over.
_CPU_LOGIT_FLOATS, _GPU_LOGIT_FLOATS = 1 << 20, 1 << 24


@dataclass(frozen=True, slots=True)
class Terms:
    """What an example's loss reads: ids that its states predict, the prompt's first.

    `prompt_weight` is the weight of each prompt token's NLL.
    """

    prompt_ids: tuple[int, ...]
    prompt_weight: float
    answer_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Tokens of all examples at one temperature: -log p of `ids` at `rows`, weighted, by owner."""

    rows: list[int]
    ids: list[int]
    weights: list[float]
    owners: list[int]


def losses_and_gradient(
    lm: LM, states: torch.Tensor, terms: Sequence[Terms], temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses [B] of the examples, and the gradient [R, D] of their sum by the states [R, D].

    States come example after example, each predicting its prompt's ids, then its answer's.
    """
    kind = torch.promote_types(states.dtype, torch.float32)
    losses = torch.zeros(len(terms), dtype=kind, device=states.device)
    gradient = torch.zeros_like(states)
    answers, prompts = _Tokens([], [], [], []), _Tokens([], [], [], [])
    row = 0
    for number, term in enumerate(terms):
        for part, ids, weight in (
            (prompts, term.prompt_ids, term.prompt_weight),
            (answers, term.answer_ids, 1 / len(term.answer_ids)),
        ):
            part.rows.extend(range(row, row + len(ids)))
            part.ids.extend(ids)
            part.weights.extend([weight] * len(ids))
            part.owners.extend([number] * len(ids))
            row += len(ids)
    for tokens, divisor in ((answers, temperature), (prompts, 1.0)):
        _add_nll(lm, states, tokens, divisor, losses, gradient)
    return losses, gradient


def _add_nll(
    lm: LM,
    states: torch.Tensor,
    tokens: _Tokens,
    temperature: float,
    losses: torch.Tensor,
    gradient: torch.Tensor,
) -> None:
    """Add weighted -log p of tokens to their examples' losses, and set the gradient's rows."""
    device = states.device
    floats = _CPU_LOGIT_FLOATS if device.type == "cpu" else _GPU_LOGIT_FLOATS
    chunk = max(1, floats // lm.vocab_size)
    for start in range(0, len(tokens.rows), chunk):
        part = slice(start, start + chunk)
        rows, ids, owners = (
            torch.tensor(values[part], device=device)
            for values in (tokens.rows, tokens.ids, tokens.owners)
        )
        weights = torch.tensor(tokens.weights[part], dtype=losses.dtype, device=device)
        leaf = states[rows].detach().requires_grad_()
        logprobs, _ = lm.logprobs(leaf, ids, temperature)
        nll = -weights * logprobs
        (gradient[rows],) = torch.autograd.grad(nll.sum(), leaf)
        losses.index_add_(0, owners, nll.detach())
