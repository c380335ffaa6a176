"""Two ways of a micro-batch through the model: suffixes packed, or whole sequences padded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from greater_fast.engine import Engine
from greater_fast.gradients.example_loss import Terms
from greater_fast.gradients.packed_row import Segment
from greater_fast.gradients.suffix_forward import computed_prefixes, packed
from greater_fast.model.lm import gather_index

# Embeddings [B, D] of the examples' tokens at the place -> the states [R, D] that the loss reads.
StatesOf = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class ExampleSequence:
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


class GradientPass(Protocol):
    """How a micro-batch goes through the model."""

    def num_tokens(self, batch: Sequence[ExampleSequence]) -> int:
        """Tokens that are computed with a gradient."""

    def states(
        self, batch: Sequence[ExampleSequence]
    ) -> contextlib.AbstractContextManager[StatesOf]:
        """The forward pass; forward and backward belong inside the block."""


class PackedPass:
    """Suffixes side by side in one row, behind prefixes that are constants."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def num_tokens(self, batch: Sequence[ExampleSequence]) -> int:
        """Tokens from the place on."""
        return sum(len(s.suffix_ids) for s in batch)

    @contextlib.contextmanager
    def states(self, batch: Sequence[ExampleSequence]) -> Iterator[StatesOf]:
        """The forward pass over packed suffixes; prefixes come from the engine where it has them.

        What it has must stay as it is to the end of the block: the engine must not run.
        """
        with self._engine.layers.installed():
            lm = self._engine.lm
            contexts = [s.ids[: s.place] for s in batch]
            found = [self._engine.prefix_kv(context) for context in contexts]
            segments = [
                Segment(len(s.suffix_ids), prefix, [row - s.place for row in s.read_rows])
                for s, prefix in zip(batch, computed_prefixes(lm, contexts, found), strict=True)
            ]
            ids = torch.tensor([i for s in batch for i in s.suffix_ids], device=lm.device)
            lengths = torch.tensor([len(s.suffix_ids) for s in batch], device=lm.device)
            embedded = lm.embed(ids).detach()  # [M, D]
            places = (lengths.cumsum(0) - lengths,)
            with packed(lm, segments) as forward:
                yield lambda leaf: forward(embedded.index_put(places, leaf))


class PaddedPass:
    """Whole sequences, padded on the right, through the model as it is."""

    def __init__(self, engine: Engine) -> None:
        self._lm = engine.lm

    def num_tokens(self, batch: Sequence[ExampleSequence]) -> int:
        """All tokens, padding included."""
        return len(batch) * max(len(s.ids) - 1 for s in batch)

    @contextlib.contextmanager
    def states(self, batch: Sequence[ExampleSequence]) -> Iterator[StatesOf]:
        """The forward pass over padded sequences."""
        lm = self._lm
        embedded = lm.embed(lm.pad_right([s.ids[:-1] for s in batch])).detach()  # [B, T, D]
        places = gather_index([[s.place] for s in batch], lm.device)
        rows = gather_index([s.read_rows for s in batch], lm.device)
        yield lambda leaf: lm.hidden(inputs_embeds=embedded.index_put(places, leaf))[rows]
