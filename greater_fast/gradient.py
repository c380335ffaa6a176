"""Stage 2, the gradient over reasoning: dL/de_t, summed over the examples.

GREATER, step 2: one backward pass through the reasoning gives a vector of the model's width; the
one-hot gradient of every token is its dot product with that token's embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from greater_fast.config import Config
from greater_fast.layout import Layouts
from greater_fast.lm import LM, gather_index
from greater_fast.nouns import Position, Rollout


def prompt_gradient(
    lm: LM,
    layouts: Layouts,
    rollouts: Sequence[Rollout],
    position: Position,
    config: Config,
) -> torch.Tensor:
    """Gradient [D] (float32, float64 for a float64 model) of the summed loss at the position.

    The position's prompt stands in the sequences, with the reasoning of `rollouts` after it.

    Raises:
        FloatingPointError: a loss or a gradient is not finite; names the example.
    """
    lengths = {
        row: len(_sequence(layouts, row, position.prompt_ids, rollout))
        for row, rollout in enumerate(rollouts)
    }
    order = sorted(lengths, key=lambda row: (lengths[row], row))
    total = torch.zeros(
        lm.model.config.get_text_config().hidden_size,
        dtype=torch.promote_types(lm.dtype, torch.float32),
        device=lm.device,
    )
    for rows in _micro_batches(order, lengths, config.gradient_batch_tokens):
        gradients = _batch_gradients(
            lm, layouts, [(i, rollouts[i]) for i in rows], position, config
        )
        for row, gradient in zip(rows, gradients, strict=True):
            if not torch.isfinite(gradient).all():
                raise FloatingPointError(
                    f"the gradient of example {row} at prompt position {position.index} is not "
                    "finite: try dtype float32"
                )
            total += gradient
    return total


def _sequence(
    layouts: Layouts, row: int, prompt_ids: tuple[int, ...], rollout: Rollout
) -> tuple[int, ...]:
    """All ids of an example: head · prompt · tail · reasoning · extractor · answer."""
    context = layouts.context_ids(row, prompt_ids)
    return (*context, *rollout.reasoning_ids, *layouts.target_ids(row))


def _micro_batches(
    order: Sequence[int], lengths: dict[int, int], max_tokens: int
) -> Iterator[list[int]]:
    """Rows in order of length, cut so that a padded batch has at most `max_tokens` tokens."""
    batch: list[int] = []
    for row in order:
        if batch and (len(batch) + 1) * lengths[row] > max_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _batch_gradients(
    lm: LM,
    layouts: Layouts,
    examples: Sequence[tuple[int, Rollout]],
    position: Position,
    config: Config,
) -> torch.Tensor:
    """Gradients [B, D] of each example's own loss at the position."""
    prompt_ids = position.prompt_ids
    sequences, places, answer_rows, prompt_rows = [], [], [], []
    for row, rollout in examples:
        ids = _sequence(layouts, row, prompt_ids, rollout)
        start, stop = layouts.prompt_span(row, prompt_ids)
        sequences.append(ids)
        places.append(start + position.index)
        answer_rows.append(range(len(ids) - len(layouts.rows[row].answer_ids), len(ids)))
        prompt_rows.append(range(start + position.index + 1, stop))  # earlier NLL is constant
    inputs = lm.pad_right([s[:-1] for s in sequences])  # [B, T]
    batch = torch.arange(len(sequences), device=lm.device)
    with torch.no_grad():
        embedded = lm.embed(inputs)  # [B, T, D]
    at = (batch, torch.tensor(places, device=lm.device))
    leaf = embedded[at].clone().requires_grad_()  # [B, D]
    hidden = lm.hidden(inputs_embeds=embedded.index_put(at, leaf))
    losses = _mean_nll(lm, hidden, sequences, answer_rows, config.temperature)
    shares = [len(rows) / len(prompt_ids) for rows in prompt_rows]
    if any(shares):
        fluency = _mean_nll(lm, hidden, sequences, prompt_rows, 1.0)
        weights = torch.tensor(shares, device=lm.device, dtype=fluency.dtype)
        losses = losses + config.fluency_weight * weights * fluency
    for (row, _), loss in zip(examples, losses.tolist(), strict=True):
        if not torch.isfinite(torch.tensor(loss)):
            raise FloatingPointError(f"the loss of example {row} is {loss}: try dtype float32")
    (gradients,) = torch.autograd.grad(losses.sum(), leaf)
    return gradients


def _mean_nll(
    lm: LM,
    hidden: torch.Tensor,
    sequences: Sequence[Sequence[int]],
    spans: Sequence[range],
    temperature: float,
) -> torch.Tensor:
    """Mean -log p [B] of the tokens in each sequence's span; 0 for an empty span."""
    index = gather_index([[i - 1 for i in span] for span in spans], lm.device)
    targets = [ids[i] for ids, span in zip(sequences, spans, strict=True) for i in span]
    logprobs, _ = lm.logprobs(hidden[index], torch.tensor(targets, device=lm.device), temperature)
    counts = torch.tensor([max(len(span), 1) for span in spans], device=lm.device)
    sums = torch.zeros(len(spans), dtype=logprobs.dtype, device=lm.device)
    return -sums.index_add(0, index[0], logprobs) / counts
