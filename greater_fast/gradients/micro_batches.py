"""The gradient of each sequence's own loss at its place, micro-batch after micro-batch.

Batches are of sequences of similar lengths, as many as the memory plan lets, dealt among ranks by
turns; one that does not fit after all is halved, and so are those that follow.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from greater_fast.config import Config
from greater_fast.engine import Engine
from greater_fast.gradients.example_loss import AnswerLoss, losses_and_gradient
from greater_fast.gradients.gradient_pass import (
    ExampleSequence,
    GradientPass,
    choose_pass,
    leaf_of,
)
from greater_fast.gradients.recomputing import activations_recomputed, layers_recomputed
from greater_fast.memory.activations import PassPlan, plan_pass
from greater_fast.model.byte_sizes import is_out_of_memory
from greater_fast.model.exclusive import exclusive
from greater_fast.model.lm import LM
from greater_fast.model.parallel.lockstep import check_alone
from greater_fast.model.quantised import gradient_everywhere

_log = logging.getLogger("greater_fast")
# Of losses in float16, on their way back: its full numbers lie between 6e-5 and 65504. Powers of
# two round nothing.
_SCALE, _SCALE_DOWN = 4096.0, 16.0
_HELD_TOKENS = 1024  # of prefixes that are computed for a pass, though it has room for fewer


@exclusive
def sequence_gradients(
    engine: Engine,
    sequences: Sequence[ExampleSequence],
    config: Config,
    loss: AnswerLoss | None = None,
) -> torch.Tensor:
    """Gradients [S, D] of each sequence's own loss (float32, float64 for a float64 model).

    `loss` takes the place of the answer's cross-entropy. With several ranks, micro-batches are
    those of one process, dealt by turns; all get all rows.

    Raises:
        FloatingPointError: a loss is not finite; names the example.
        ValueError: `loss` gives no scalar, or none that depends on the logits; a layer of the model
            passes no gradient on.
        MemoryError: a sequence does not fit the memory, however little is kept of it.
    """
    lm, ranks = engine.lm, engine.ranks
    gradients = torch.zeros(
        (len(sequences), lm.embedding_width),
        dtype=torch.promote_types(lm.dtype, torch.float32),
        device=lm.device,
    )
    if not sequences:
        return gradients
    way = choose_pass(engine, config.kernels)
    lengths = [way.num_tokens([s]) for s in sequences]
    order = sorted(range(len(sequences)), key=lengths.__getitem__)
    plan = ranks.from_first(plan_pass(lm, [lengths[number] for number in order], config))
    batches = ranks.from_first(_batches(sequences, order, way, plan))
    waiting = batches[ranks.rank :: ranks.size]
    while waiting:
        numbers = waiting[0]
        batch = [sequences[number] for number in numbers]
        # The same bits before the place, whoever has run what until now.
        if engine.can_pack and not way.num_held_tokens(batch):
            engine.store([s.ids[: s.place] for s in batch])
        try:
            own = partial(_batch_gradients, lm, way=way, plan=plan, config=config, loss=loss)
            found = own(batch) if lm.dtype != torch.float16 else _scaled_gradients(batch, own)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            check_alone(lm.ranks, error)
            found = None
        if found is None:  # by now all that the pass held is free
            torch.cuda.empty_cache()
            plan = _smaller(lm, batch, way, plan, config)
            twice = ", and layers are computed twice" if plan.checkpointing else ""
            _log.warning(
                "the gradient of %d tokens at a time does not fit the memory of %s: it goes on "
                "with %d at most%s (gradient_batch_tokens)",
                *(way.num_tokens(batch), lm.device, plan.max_tokens, twice),
            )
            waiting = [p for numbers in waiting for p in _batches(sequences, numbers, way, plan)]
            continue
        gradients[numbers] = found.to(gradients.dtype)
        del waiting[0]
    shares = [[n for b in batches[rank :: ranks.size] for n in b] for rank in range(ranks.size)]
    found_shares = ranks.gathered_rows(gradients[shares[ranks.rank]])
    for numbers, share in zip(shares, found_shares, strict=True):
        gradients[numbers] = share
    return gradients


def _batches(
    sequences: Sequence[ExampleSequence], order: Sequence[int], way: GradientPass, plan: PassPlan
) -> list[list[int]]:
    """Micro-batches, as numbers of sequences in an order: as many as fit together, one at least.

    What the plan counts of a token has room for as many tokens of prefixes, which take less.
    """
    batches: list[list[int]] = []
    most_held = max(plan.max_tokens, _HELD_TOKENS)
    for number in order:
        batch = [sequences[n] for n in (*batches[-1], number)] if batches else []
        fits = batch and way.num_tokens(batch) <= plan.max_tokens
        if fits and way.num_held_tokens(batch) <= most_held:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


def _scaled_gradients(
    batch: Sequence[ExampleSequence], gradients_of: Callable[[list[ExampleSequence]], torch.Tensor]
) -> torch.Tensor:
    """Gradients [B, D], float32, of a float16 model, which has no numbers as small as they may be.

    On the way back losses are `_SCALE` times as large, each example's less where it overflows.
    """

    def found(scales: torch.Tensor) -> torch.Tensor:
        scaled = [
            replace(s, terms=replace(s.terms, scale=scale))
            for s, scale in zip(batch, scales.tolist(), strict=True)
        ]
        return gradients_of(scaled).float()

    scales = torch.full((len(batch),), _SCALE)
    gradients = found(scales)
    scales = scales.to(gradients.device)
    while (over := ~gradients.isfinite().all(-1) & (scales > 1)).any():
        scales = torch.where(over, scales / _SCALE_DOWN, scales)
        gradients = torch.where(over[:, None], found(scales), gradients)
    return gradients / scales[:, None]


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
    leaf = leaf_of(lm, batch)
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
    if not plan.checkpointing and plan.may_recompute:
        return replace(plan, checkpointing=True)
    is_off = config.gradient_checkpointing == "off"
    spare = "set gradient_checkpointing='auto', " if is_off else ""
    raise MemoryError(
        f"the gradient of example {batch[0].row} alone, {num_tokens} tokens, does not fit the "
        f"memory of {lm.device}: {spare}lower kv_cache_bytes or max_new_tokens, or use a smaller "
        "model"
    )
