"""Stage 2, the gradient over reasoning: dL/de_t, summed over the examples.

GREATER, step 2: one backward pass through the reasoning gives a vector of the model's width; the
one-hot gradient of every token is its dot product with that token's embedding. Only tokens from
position t on depend on e_t, and only they are computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from greater_fast.config import Config
from greater_fast.engine import Engine, Rollout
from greater_fast.examples.layout import Layouts
from greater_fast.gradients.example_loss import AnswerLoss, Terms, losses_and_gradient
from greater_fast.gradients.gradient_pass import (
    ExampleSequence,
    GradientPass,
    choose_pass,
)
from greater_fast.gradients.recomputing import activations_recomputed, layers_recomputed
from greater_fast.memory.activations import PassPlan, plan_pass
from greater_fast.model.byte_sizes import is_out_of_memory
from greater_fast.model.exclusive import exclusive
from greater_fast.model.lm import LM
from greater_fast.model.parallel.lockstep import check_alone
from greater_fast.model.quantised import gradient_everywhere
from greater_fast.search.nouns import Position


def prompt_gradient(
    engine: Engine,
    layouts: Layouts,
    rollouts: Sequence[Rollout],
    position: Position,
    config: Config,
    loss: AnswerLoss | None = None,
) -> torch.Tensor:
    """Gradient [D] (float32, float64 for a float64 model) of the summed loss at the position.

    The position's prompt stands in the sequences, with the reasoning of `rollouts` after it. `loss`
    takes the place of the answer's cross-entropy. With `gradient_norm="example"` each example's
    gradient is divided by its length first, so that none outweighs the others; zero stays zero.

    Raises:
        FloatingPointError: a loss or a gradient is not finite; names the example.
        ValueError: `loss` gives no scalar, or none that depends on the logits; a layer of the model
            passes no gradient on.
        MemoryError: an example does not fit the memory, however little is kept of it.
    """
    gradients = example_gradients(engine, layouts, rollouts, position, config, loss)  # [N, D]
    if config.gradient_norm == "example":
        least = torch.finfo(gradients.dtype).tiny
        gradients = torch.nn.functional.normalize(gradients, dim=1, eps=least)
    return gradients.sum(0)


@exclusive
def example_gradients(
    engine: Engine,
    layouts: Layouts,
    rollouts: Sequence[Rollout],
    position: Position,
    config: Config,
    loss: AnswerLoss | None = None,
) -> torch.Tensor:
    """Gradients [N, D] of each example's own loss; types and errors as of `prompt_gradient`.

    With several ranks, micro-batches are those of one process, dealt by turns; all get all rows.
    """
    lm, ranks = engine.lm, engine.ranks
    sequences = [
        _sequence(layouts, row, rollout, position, config) for row, rollout in enumerate(rollouts)
    ]
    gradients = torch.zeros(
        (len(sequences), lm.embedding_width),
        dtype=torch.promote_types(lm.dtype, torch.float32),
        device=lm.device,
    )
    way = choose_pass(engine, config.kernels)
    sequences.sort(key=lambda s: (way.num_tokens([s]), s.row))
    plan = ranks.from_first(plan_pass(lm, [way.num_tokens([s]) for s in sequences], config))
    batches = _batches(sequences, way, plan)
    waiting = batches[ranks.rank :: ranks.size]
    while waiting:
        batch = waiting[0]
        if engine.can_pack:  # the same bits before the place, whoever has run what until now
            engine.store([s.ids[: s.place] for s in batch])
        try:
            found = _batch_gradients(lm, batch, way, plan, config, loss)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            check_alone(lm.ranks, error)
            found = None
        if found is None:  # by now all that the pass held is free
            torch.cuda.empty_cache()
            plan = _smaller(lm, batch, way, plan, config)
            waiting = [part for batch in waiting for part in _batches(batch, way, plan)]
            continue
        gradients[[s.row for s in batch]] = found.to(gradients.dtype)
        del waiting[0]
    rows = [[s.row for b in batches[rank :: ranks.size] for s in b] for rank in range(ranks.size)]
    shares = ranks.gathered_rows(gradients[rows[ranks.rank]])
    for numbers, share in zip(rows, shares, strict=True):
        gradients[numbers] = share
    for row, gradient in enumerate(gradients):
        if not torch.isfinite(gradient).all():
            raise FloatingPointError(
                f"the gradient of example {row} at prompt position {position.index} is not "
                "finite: try dtype float32"
            )
    return gradients


def _sequence(
    layouts: Layouts, row: int, rollout: Rollout, position: Position, config: Config
) -> ExampleSequence:
    """An example with the position's prompt and its reasoning, and what its loss reads."""
    prompt_ids, answer_ids = position.prompt_ids, layouts.rows[row].answer_ids
    context = layouts.context_ids(row, prompt_ids)
    ids = (*context, *rollout.reasoning_ids, *layouts.target_ids(row))
    start, stop = layouts.prompt_span(row, prompt_ids)
    place = start + position.index
    later = range(place + 1, stop if config.fluency_weight else 0)  # earlier NLL is constant
    answer = range(len(ids) - len(answer_ids), len(ids))
    return ExampleSequence(
        row=row,
        ids=ids,
        place=place,
        read_rows=tuple(i - 1 for i in (*later, *answer)),
        terms=Terms(
            prompt_ids=tuple(ids[i] for i in later),
            prompt_weight=config.fluency_weight / len(prompt_ids),
            answer_ids=answer_ids,
        ),
    )


def _batches(
    sequences: Sequence[ExampleSequence], way: GradientPass, plan: PassPlan
) -> list[list[ExampleSequence]]:
    """Micro-batches of sequences in their order: as many as fit together, one at least."""
    batches: list[list[ExampleSequence]] = []
    for sequence in sequences:
        if batches and way.num_tokens([*batches[-1], sequence]) <= plan.max_tokens:
            batches[-1].append(sequence)
        else:
            batches.append([sequence])
    return batches


def _batch_gradients(
    lm: LM,
    batch: Sequence[ExampleSequence],
    way: GradientPass,
    plan: PassPlan,
    config: Config,
    loss: AnswerLoss | None,
) -> torch.Tensor:
    """Gradients [B, D] of each example's own loss at the place."""
    recomputing = layers_recomputed if plan.checkpointing else activations_recomputed
    ids = torch.tensor([s.ids[s.place] for s in batch], device=lm.device)
    leaf = lm.embed(ids).detach().requires_grad_()  # [B, D]
    # What computes layers again wraps the forwards that run, so it comes behind those of the pass.
    with torch.enable_grad(), way.states(batch) as states_of, recomputing(lm):
        states = states_of(leaf)  # [R, D]
        losses, gradient = losses_and_gradient(
            *(lm, states.detach(), [s.terms for s in batch]),
            *(config.temperature, loss, config.kernels),
        )
        for sequence, value in zip(batch, losses.tolist(), strict=True):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss of example {sequence.row} is {value}: try dtype float32"
                    + (", or another loss function" if loss else "")
                )
        with gradient_everywhere():
            (gradients,) = torch.autograd.grad(states, leaf, gradient)
    return gradients


def _smaller(
    lm: LM, batch: Sequence[ExampleSequence], way: GradientPass, plan: PassPlan, config: Config
) -> PassPlan:
    """A plan that takes less memory than the one a batch has just failed with.

    Raises:
        MemoryError: there is none; says what to change.
    """
    num_tokens = way.num_tokens(batch)
    if len(batch) > 1:
        return replace(plan, max_tokens=num_tokens // 2)
    if not plan.checkpointing and config.gradient_checkpointing == "auto":
        return replace(plan, checkpointing=True)
    spare = "" if plan.checkpointing else "set gradient_checkpointing='auto', "
    raise MemoryError(
        f"the gradient of example {batch[0].row} alone, {num_tokens} tokens, does not fit the "
        f"memory of {lm.device}: {spare}lower kv_cache_bytes or max_new_tokens, or use a smaller "
        "model"
    )
