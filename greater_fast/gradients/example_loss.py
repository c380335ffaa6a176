"""The loss of each example, weighted NLL of text and CE of an answer, and its gradient by states.

Logits exist for a few rows at a time, so that none outlives its part of the sum, or not at all
where a kernel takes log-probabilities from the states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from greater_fast.model.lm import LM

# Logits of a chunk, [rows, V]; softmax and its gradient take as much again a few times over.
_CPU_LOGIT_FLOATS, _GPU_LOGIT_FLOATS = 1 << 20, 1 << 24

# (logits [A, V] that predict an answer's tokens, the answer's ids [A]) -> a scalar to minimise
AnswerLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Terms:
    """What an example's loss reads: ids that its states predict, those of text first.

    `text_weight` is the weight of each text token's NLL, at temperature 1: of the prompt's, or of a
    reasoning's, where it may be negative. The answer's mean NLL is at the loss's temperature. The
    gradient, and not the loss, is `scale` times as large.
    """

    text_ids: tuple[int, ...]
    text_weight: float
    answer_ids: tuple[int, ...] = ()
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Tokens of all examples at one temperature: -log p of `ids` at `rows`, weighted, by owner.

    Their gradients are scaled.
    """

    temperature: float
    rows: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)


def losses_and_gradient(
    lm: LM,
    states: torch.Tensor,
    terms: Sequence[Terms],
    temperature: float,
    answer_loss: AnswerLoss | None = None,
    kernels: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses [B] of the examples, and the gradient [R, D] of their scaled sum by the states [R, D].

    States come example after example, each predicting its text's ids, then its answer's.
    `answer_loss` takes the place of the answer's mean cross-entropy at the temperature; `kernels`
    says who makes log-probabilities, as the setting does.

    Raises:
        ValueError: `answer_loss` gives no scalar, or none that depends on the logits; `kernels` is
            "triton", and it cannot run.
    """
    kind = torch.promote_types(states.dtype, torch.float32)
    losses = torch.zeros(len(terms), dtype=kind, device=states.device)
    gradient = torch.zeros_like(states)
    answers, texts = _Tokens(temperature), _Tokens(1.0)
    row = 0
    for number, term in enumerate(terms):
        for part, ids, weight in (
            (texts, term.text_ids, term.text_weight),
            (answers, term.answer_ids, 1 / max(len(term.answer_ids), 1)),
        ):
            part.rows.extend(range(row, row + len(ids)))
            part.ids.extend(ids)
            part.weights.extend([weight] * len(ids))
            part.scales.extend([term.scale] * len(ids))
            part.owners.extend([number] * len(ids))
            row += len(ids)
    _add_nll(lm, states, texts, kernels, losses, gradient)
    if answer_loss is None:
        _add_nll(lm, states, answers, kernels, losses, gradient)
        return losses, gradient
    for number, term in enumerate(terms):
        own = [i for i, owner in enumerate(answers.owners) if owner == number]
        rows, answer_ids = (
            torch.tensor([values[i] for i in own], device=states.device)
            for values in (answers.rows, answers.ids)
        )
        leaf = states[rows].detach().requires_grad_()
        logits = lm.logits(leaf)
        value, by_logits = _value_and_gradient(answer_loss, logits, answer_ids)
        (gradient[rows],) = torch.autograd.grad(logits, leaf, by_logits * term.scale)
        losses[number] += value
    return losses, gradient


def try_loss(answer_loss: AnswerLoss, lm: LM, answers: Sequence[Sequence[int]]) -> None:
    """Call a user's loss with the ids of each answer, at drawn logits, and differentiate it.

    Raises:
        ValueError: it cannot be differentiated, or what comes out is not finite; says why.
    """
    if not callable(answer_loss):
        raise ValueError(
            f"loss: got {type(answer_loss).__name__}, expected a function of an answer's logits "
            "[A, V] and ids [A]"
        )
    kind = torch.promote_types(lm.dtype, torch.float32)
    generator = torch.Generator().manual_seed(0)
    for ids in dict.fromkeys(map(tuple, answers)):
        drawn = torch.randn(len(ids), lm.vocab_size, generator=generator, dtype=kind)
        with torch.enable_grad():
            value, gradient = _value_and_gradient(
                answer_loss, drawn.to(lm.device), torch.tensor(ids, device=lm.device)
            )
        for what, found in (("value", value), ("gradient", gradient)):
            if not found.isfinite().all():
                raise ValueError(
                    f"loss: its {what} for an answer of {len(ids)} tokens is not finite, at logits "
                    "of ordinary size (drawn from a normal distribution)"
                )


def _value_and_gradient(
    answer_loss: AnswerLoss, logits: torch.Tensor, ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A user's loss at logits [A, V] and ids [A], and its gradient [A, V] by the logits."""
    given = logits.detach().requires_grad_()
    value: Any = answer_loss(given, ids)
    if not isinstance(value, torch.Tensor) or value.dim() > 0:
        is_tensor = isinstance(value, torch.Tensor)
        got = f"a tensor of shape {list(value.shape)}" if is_tensor else type(value).__name__
        raise ValueError(f"loss: got {got} from it, expected a scalar tensor")
    by_logits = None
    if value.requires_grad:
        (by_logits,) = torch.autograd.grad(value, given, allow_unused=True)
    if by_logits is None:
        raise ValueError(
            "loss: its value has no gradient by the answer's logits: compute it from them in "
            "torch, without detach, item, argmax or no_grad"
        )
    return value.detach(), by_logits


def _add_nll(
    lm: LM,
    states: torch.Tensor,
    tokens: _Tokens,
    kernels: str,
    losses: torch.Tensor,
    gradient: torch.Tensor,
) -> None:
    """Add weighted -log p of tokens to their examples' losses, and set the gradient's rows."""
    device = states.device
    floats = _CPU_LOGIT_FLOATS if device.type == "cpu" else _GPU_LOGIT_FLOATS
    chunk = max(1, floats // lm.vocab_size)
    if lm.fused_head(kernels):  # no logits: all rows share a reading of the head
        chunk = max(1, len(tokens.rows))
    for start in range(0, len(tokens.rows), chunk):
        part = slice(start, start + chunk)
        rows, ids, owners = (
            torch.tensor(values[part], device=device)
            for values in (tokens.rows, tokens.ids, tokens.owners)
        )
        weights, scales = (
            torch.tensor(values[part], dtype=losses.dtype, device=device)
            for values in (tokens.weights, tokens.scales)
        )
        leaf = states[rows].detach().requires_grad_()
        logprobs, _ = lm.logprobs(leaf, ids, tokens.temperature, kernels)
        nll = -weights * logprobs
        (gradient[rows],) = torch.autograd.grad((nll * scales).sum(), leaf)
        # Unlike `index_add_`, this adds in one order on a GPU too.
        losses.index_put_((owners,), nll.detach(), accumulate=True)
