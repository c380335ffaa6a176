"""Stage 2, the gradient over reasoning: dL/de_t, summed over the examples.

GREATER, step 2: one backward pass through the reasoning gives a vector of the model's width; the
one-hot gradient of every token is its dot product with that token's embedding. Only tokens from
position t on depend on e_t, and only they are computed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from greater_fast.config import Config
from greater_fast.example_loss import Terms, losses_and_gradient
from greater_fast.layout import Layouts
from greater_fast.lm import LM, gather_index
from greater_fast.nouns import Position, Rollout
from greater_fast.packed_row import Segment
from greater_fast.rollout import Engine
from greater_fast.suffix_forward import computed_prefixes, packed

# Embeddings [B, D] of the examples' tokens at the place -> the states [R, D] that the loss reads.
StatesOf = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Sequence:
    """One example's ids, head · prompt · tail · reasoning · extractor · answer.

    The gradient is taken at `place`; the states at `read_rows` predict what the loss reads.
    """

    row: int
    ids: tuple[int, ...]
    place: int
    read_rows: tuple[int, ...]
    terms: Terms

    @property
    def suffix_ids(self) -> tuple[int, ...]:
        """Ids from the place on; the last one is predicted, and no input."""
        return self.ids[self.place : -1]


def prompt_gradient(
    engine: Engine,
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
    lm = engine.lm
    sequences = [
        _sequence(layouts, row, rollout, position, config) for row, rollout in enumerate(rollouts)
    ]
    gradients = torch.zeros(
        (len(rollouts), lm.model.config.get_text_config().hidden_size),
        dtype=torch.promote_types(lm.dtype, torch.float32),
        device=lm.device,
    )
    states_of = _packed_states if engine.can_pack else _padded_states
    for batch in _micro_batches(sequences, config.gradient_batch_tokens, engine.can_pack):
        with states_of(engine, batch) as forward:
            found = _batch_gradients(lm, batch, forward, config)
        gradients[[sequence.row for sequence in batch]] = found.to(gradients.dtype)
    for row, gradient in enumerate(gradients):
        if not torch.isfinite(gradient).all():
            raise FloatingPointError(
                f"the gradient of example {row} at prompt position {position.index} is not "
                "finite: try dtype float32"
            )
    return gradients.sum(0)


def _sequence(
    layouts: Layouts, row: int, rollout: Rollout, position: Position, config: Config
) -> _Sequence:
    """An example with the position's prompt and its reasoning, and what its loss reads."""
    prompt_ids, answer_ids = position.prompt_ids, layouts.rows[row].answer_ids
    context = layouts.context_ids(row, prompt_ids)
    ids = (*context, *rollout.reasoning_ids, *layouts.target_ids(row))
    start, stop = layouts.prompt_span(row, prompt_ids)
    place = start + position.index
    later = range(place + 1, stop if config.fluency_weight else 0)  # earlier NLL is constant
    answer = range(len(ids) - len(answer_ids), len(ids))
    return _Sequence(
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


def _micro_batches(
    sequences: Sequence[_Sequence], max_tokens: int, is_packed: bool
) -> Iterator[list[_Sequence]]:
    """Sequences in order of length, cut so that a batch computes at most `max_tokens` tokens."""
    lengths = [len(s.suffix_ids) if is_packed else len(s.ids) - 1 for s in sequences]
    batch: list[_Sequence] = []
    num_tokens = 0
    for length, row in sorted(zip(lengths, range(len(sequences)), strict=True)):
        num_tokens = num_tokens + length if is_packed else (len(batch) + 1) * length
        if batch and num_tokens > max_tokens:
            yield batch
            batch, num_tokens = [], length
        batch.append(sequences[row])
    yield batch


def _batch_gradients(
    lm: LM, batch: Sequence[_Sequence], states_of: StatesOf, config: Config
) -> torch.Tensor:
    """Gradients [B, D] of each example's own loss at the place."""
    ids = torch.tensor([s.ids[s.place] for s in batch], device=lm.device)
    leaf = lm.embed(ids).detach().requires_grad_()  # [B, D]
    states = states_of(leaf)  # [R, D]
    losses, gradient = losses_and_gradient(
        lm, states.detach(), [s.terms for s in batch], config.temperature
    )
    for sequence, loss in zip(batch, losses.tolist(), strict=True):
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss of example {sequence.row} is {loss}: try dtype float32"
            )
    (gradients,) = torch.autograd.grad(states, leaf, gradient)
    return gradients


@contextlib.contextmanager
def _packed_states(engine: Engine, batch: Sequence[_Sequence]) -> Iterator[StatesOf]:
    """Suffixes side by side, behind prefixes that are constants; usable to the block's end."""
    lm = engine.lm
    contexts = [s.ids[: s.place] for s in batch]
    prefixes = computed_prefixes(lm, contexts, [engine.prefix_kv(ids) for ids in contexts])
    segments = [
        Segment(len(s.suffix_ids), prefix, [row - s.place for row in s.read_rows])
        for s, prefix in zip(batch, prefixes, strict=True)
    ]
    ids = [i for s in batch for i in s.suffix_ids]
    lengths = torch.tensor([len(s.suffix_ids) for s in batch], device=lm.device)
    places = lengths.cumsum(0) - lengths
    with packed(lm, segments) as forward:
        embedded = lm.embed(torch.tensor(ids, device=lm.device)).detach()  # [M, D]
        yield lambda leaf: forward(embedded.index_put((places,), leaf))


@contextlib.contextmanager
def _padded_states(engine: Engine, batch: Sequence[_Sequence]) -> Iterator[StatesOf]:
    """Whole sequences, padded on the right, through the model as it is."""
    lm = engine.lm
    embedded = lm.embed(lm.pad_right([s.ids[:-1] for s in batch])).detach()  # [B, T, D]
    places = torch.arange(len(batch)), torch.tensor([s.place for s in batch])
    rows = gather_index([s.read_rows for s in batch], lm.device)
    yield lambda leaf: lm.hidden(inputs_embeds=embedded.index_put(places, leaf))[rows]
