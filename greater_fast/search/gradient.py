"""Stage 2, the gradient over reasoning: of the answer's loss, of the reasoning's, or of both.

GREATER, step 2: one backward pass through the reasoning gives a vector of the model's width; the
one-hot gradient of every token is its dot product with that token's embedding. Only tokens from
position t on depend on e_t, and only they are computed.

The answer's loss is the paper's: the reasoning is held fixed. The reasoning's is the other half of
the gradient of an expected reward R, the score function's (Williams, 1992):

    grad E[R] = E[grad R] + E[(R - b) grad log f(reasoning | head p tail)]
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch

from greater_fast.config import Config
from greater_fast.engine import Engine, Rollout
from greater_fast.examples.layout import Layouts
from greater_fast.gradients.example_loss import AnswerLoss, Terms
from greater_fast.gradients.gradient_pass import ExampleSequence
from greater_fast.gradients.micro_batches import sequence_gradients
from greater_fast.search.nouns import Position
from greater_fast.search.reasonings import (
    Reasoning,
    advantages,
    distinct,
    draw_reasonings,
)
from greater_fast.search.state import LoopState


class StepGradient(NamedTuple):
    """What a step ranks its candidates by.

    Attributes:
        vector: [D], types as of `prompt_gradient`.
        num_contrasted: training rows with a right and a wrong reasoning, of which the reasoning's
            gradient is made; None where there is no such gradient.
    """

    vector: torch.Tensor
    num_contrasted: int | None = None


def step_gradient(
    engine: Engine,
    layouts: Layouts,
    state: LoopState,
    position: Position,
    config: Config,
    loss: AnswerLoss | None = None,
) -> StepGradient:
    """The gradient that a step ranks its candidates by, as `config.gradient` says.

    `both` is the answer's plus `reasoning_weight` times the reasoning's, each summed over the rows
    and divided by its length first: of one that is zero, nothing. While no row has both a right and
    a wrong reasoning, `reasoning` is the answer's too.

    Errors are those of `prompt_gradient`, which gives the answer's.
    """
    answer = partial(
        prompt_gradient, engine, layouts, state.incumbent.rollouts, position, config, loss
    )
    if not config.asks_for_reasonings:
        return StepGradient(answer())
    if config.draws_reasonings:
        reasonings = draw_reasonings(engine, layouts, position, config)
    else:
        reasonings = state.reasonings.chosen(state.incumbent.rollouts, config.num_reasonings)
    num_contrasted = sum(len({r.is_right for r in row}) == 2 for row in reasonings)
    reasoning = _summed(reasoning_gradients(engine, layouts, reasonings, position, config), config)
    if config.gradient == "reasoning" and reasoning.any():
        return StepGradient(reasoning, num_contrasted)
    both = _unit(answer()) + config.reasoning_weight * _unit(reasoning)
    return StepGradient(both, num_contrasted)


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
    return _summed(example_gradients(engine, layouts, rollouts, position, config, loss), config)


def example_gradients(
    engine: Engine,
    layouts: Layouts,
    rollouts: Sequence[Rollout],
    position: Position,
    config: Config,
    loss: AnswerLoss | None = None,
) -> torch.Tensor:
    """Gradients [N, D] of each example's own loss; types and errors as of `prompt_gradient`."""
    sequences = [
        _sequence(layouts, row, rollout, position, config) for row, rollout in enumerate(rollouts)
    ]
    return _checked(sequence_gradients(engine, sequences, config, loss), sequences, position)


def reasoning_gradients(
    engine: Engine,
    layouts: Layouts,
    reasonings: Sequence[Sequence[Reasoning]],
    position: Position,
    config: Config,
) -> torch.Tensor:
    """Gradients [N, D] of each row's loss over its n reasonings; types as of `prompt_gradient`.

    Lower is better: more of what makes right reasonings likely, and less of what makes wrong ones.

        L = -1/n sum_j A_j log f(reasoning_j, end | head p tail) / num_tokens_j

    A_j is a reasoning's reward less the mean of the row's other rewards. With
    `reasonings="stored"` num_tokens are those that log f is a sum of, and of identical reasonings
    the first counts; with "sampled" it is 1, and each counts, as it was drawn. The end id is left
    out where the token limit cut a reasoning. A row whose reasonings are all right, or all wrong,
    has a gradient of zero, and costs nothing.

    Raises:
        FloatingPointError: a loss or a gradient is not finite; names the example.
        MemoryError: a sequence does not fit the memory, however little is kept of it.
    """
    are_drawn = config.reasonings == "sampled"
    sequences = []
    for row, own in enumerate(reasonings):
        counted = list(own) if are_drawn else distinct(own)
        for reasoning, advantage in zip(counted, advantages(counted), strict=True):
            num_tokens = len(reasoning.written_ids)
            if advantage and num_tokens:
                weight = advantage / len(counted) / (1 if are_drawn else num_tokens)
                sequences.append(_written_sequence(layouts, row, reasoning, position, weight))
    found = _checked(sequence_gradients(engine, sequences, config), sequences, position)
    gradients = found.new_zeros(len(reasonings), found.shape[1])
    # One after the other: `index_add_` adds in no order on a GPU, `index_put_` in none on a CPU.
    for sequence, gradient in zip(sequences, found, strict=True):
        gradients[sequence.row] += gradient
    return gradients


def _summed(gradients: torch.Tensor, config: Config) -> torch.Tensor:
    """Gradients [N, D] of rows, added up [D]; each at length 1 first, where that is asked for."""
    if config.gradient_norm == "example":
        gradients = _unit(gradients)
    return gradients.sum(0)


def _unit(gradients: torch.Tensor) -> torch.Tensor:
    """Vectors [..., D] at length 1; zero stays zero.

    They may be so short that the squares of their numbers are 0: of an answer that is nearly sure.
    """
    least = torch.finfo(gradients.dtype).tiny
    gradients = gradients / gradients.abs().amax(-1, keepdim=True).clamp(min=least)
    return torch.nn.functional.normalize(gradients, dim=-1, eps=least)


def _checked(
    gradients: torch.Tensor, sequences: Sequence[ExampleSequence], position: Position
) -> torch.Tensor:
    """Gradients [S, D] of sequences, if all of them are finite."""
    for sequence, gradient in zip(sequences, gradients, strict=True):
        if not torch.isfinite(gradient).all():
            raise FloatingPointError(
                f"the gradient of example {sequence.row} at prompt position {position.index} is "
                "not finite: try dtype float32"
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
            text_ids=tuple(ids[i] for i in later),
            text_weight=config.fluency_weight / len(prompt_ids),
            answer_ids=answer_ids,
        ),
    )


def _written_sequence(
    layouts: Layouts, row: int, reasoning: Reasoning, position: Position, weight: float
) -> ExampleSequence:
    """An example with the position's prompt and what was written behind it, to its end."""
    context = layouts.context_ids(row, position.prompt_ids)
    ids = (*context, *reasoning.written_ids)
    start, _ = layouts.prompt_span(row, position.prompt_ids)
    return ExampleSequence(
        row=row,
        ids=ids,
        place=start + position.index,
        read_rows=tuple(range(len(context) - 1, len(ids) - 1)),
        terms=Terms(text_ids=reasoning.written_ids, text_weight=weight),
    )
