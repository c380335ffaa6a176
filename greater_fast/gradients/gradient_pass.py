"""Two ways of a micro-batch through the model: suffixes packed, or whole sequences."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from greater_fast.engine import Engine
from greater_fast.gradients.attention_choice import why_bits_differ
from greater_fast.gradients.example_loss import Terms
from greater_fast.gradients.segments import Segment
from greater_fast.gradients.suffix_forward import computed_prefixes, embeddings_changed, packed
from greater_fast.model import padding
from greater_fast.model.byte_sizes import is_out_of_memory
from greater_fast.model.checks import said
from greater_fast.model.exclusive import exclusive
from greater_fast.model.forwards import alike
from greater_fast.model.kv_cache import BLOCK_SIZE, PrefixKV
from greater_fast.model.lm import LM
from greater_fast.model.padding import gather_index
from greater_fast.model.quantised import gradient_everywhere, gradient_watched
from greater_fast.wording import listed

# Embeddings [B, D] of the examples' tokens at the place -> the states [R, D] that the loss reads.
StatesOf = Callable[[torch.Tensor], torch.Tensor]

# Tokens of a sequence, before its place, and before those that are read: few, as in a step, or all
# behind the place. Kernels take 32 keys at a time or more, and go wrong at the edges if anywhere;
# one prefix ends in its first block of keys, the other in its second.
_TRIED = ((34, 25, 31), (33, 14, 14))


@dataclass(frozen=True, slots=True)
class ExampleSequence:
    """An example's ids, head · prompt · tail · reasoning, and extractor · answer or an end id.

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

    def num_held_tokens(self, batch: Sequence[ExampleSequence]) -> int:
        """Tokens of prefixes that are computed for the pass, and held to its end."""

    def states(
        self, batch: Sequence[ExampleSequence]
    ) -> contextlib.AbstractContextManager[StatesOf]:
        """The forward pass; forward and backward belong inside the block."""


class PackedPass:
    """Suffixes side by side in one row, behind prefixes that are constants."""

    def __init__(self, engine: Engine, kernels: str = "auto") -> None:
        self._engine, self._kernels = engine, kernels
        # Tried now: modules that are wrapped later are not the model's.
        self._layers = engine.layers

    def num_tokens(self, batch: Sequence[ExampleSequence]) -> int:
        """Tokens from the place on."""
        return sum(len(s.suffix_ids) for s in batch)

    def num_held_tokens(self, batch: Sequence[ExampleSequence]) -> int:
        """Those before it, where the engine has no room for all of them: none come from it then."""
        num_tokens = sum(s.place for s in batch)
        in_blocks = num_tokens + BLOCK_SIZE * len(batch)
        return 0 if in_blocks <= self._engine.prefix_capacity else num_tokens

    @contextlib.contextmanager
    def states(self, batch: Sequence[ExampleSequence]) -> Iterator[StatesOf]:
        """The forward pass over packed suffixes; prefixes come from the engine, or none do.

        Of some it would depend on what was run before which these are, and so would their bits.
        What the engine has must stay as it is to the end of the block: it must not run.
        """
        held = self.num_held_tokens(batch)
        found = [None if held else self._engine.prefix_kv(s.ids[: s.place]) for s in batch]
        with (
            self._layers.installed(),
            packed_states(self._engine.lm, batch, found, self._kernels) as states_of,
        ):
            yield states_of


@contextlib.contextmanager
def packed_states(
    lm: LM,
    batch: Sequence[ExampleSequence],
    found: Sequence[PrefixKV | None],
    kernels: str = "auto",
) -> Iterator[StatesOf]:
    """The forward pass over packed suffixes, behind prefixes of which some may be found already."""
    prefixes = computed_prefixes(lm, [s.ids[: s.place] for s in batch], found, kernels)
    segments = [
        Segment(len(s.suffix_ids), prefix, [row - s.place for row in s.read_rows])
        for s, prefix in zip(batch, prefixes, strict=True)
    ]
    ids = torch.tensor([i for s in batch for i in s.suffix_ids], device=lm.device)
    lengths = torch.tensor([len(s.suffix_ids) for s in batch], device=lm.device)
    embedded = lm.embed(ids).detach()  # [M, D]
    places = (lengths.cumsum(0) - lengths,)
    with packed(lm, segments, kernels) as forward:
        yield lambda leaf: forward(embedded.index_put(places, leaf), ids)


class WholePass:
    """Whole sequences through the model as it is, padded on the right where it allows that."""

    def __init__(self, lm: LM) -> None:
        self._lm = lm

    def num_tokens(self, batch: Sequence[ExampleSequence]) -> int:
        """All tokens, padding included."""
        return padding.num_tokens(self._lm, [len(s.ids) - 1 for s in batch])

    def num_held_tokens(self, batch: Sequence[ExampleSequence]) -> int:
        """None: a prefix goes through with the rest."""
        return 0

    @contextlib.contextmanager
    def states(self, batch: Sequence[ExampleSequence]) -> Iterator[StatesOf]:
        """The forward pass over whole sequences."""
        lm = self._lm

        def states_of(leaf: torch.Tensor) -> torch.Tensor:
            def states(ids: torch.Tensor, group: Sequence[int]) -> torch.Tensor:
                places = gather_index([[batch[number].place] for number in group], lm.device)
                own = leaf[list(group)]  # [B, D]
                # Ids are given still: some have more than one embedding of a token (Gemma 3n).
                with embeddings_changed(lm, lambda output: output.index_put(places, own)):
                    return lm.hidden(input_ids=ids)

            sequences, rows = [s.ids[:-1] for s in batch], [s.read_rows for s in batch]
            return padding.states_at(lm, sequences, rows, states)

        yield states_of


def leaf_of(lm: LM, batch: Sequence[ExampleSequence]) -> torch.Tensor:
    """The embeddings [B, D] at the places, of which gradients are taken."""
    ids = torch.tensor([s.ids[s.place] for s in batch], device=lm.device)
    return lm.embed(ids).detach().requires_grad_()


def choose_pass(engine: Engine, kernels: str = "auto") -> GradientPass:
    """Packed suffixes where the model takes them, else whole sequences."""
    return PackedPass(engine, kernels) if engine.can_pack else WholePass(engine.lm)


@exclusive
def check_gradient(engine: Engine, kernels: str = "auto") -> tuple[str, ...]:
    """Try whether there is a gradient, before a run counts on it; what a user should know of it.

    Raises:
        ValueError: none comes to the model's input embeddings; says why.
    """
    reason = None if engine.can_pack else _why_not_whole(engine.lm)
    reason = reason or _what_cuts(engine.lm)
    if reason is not None:
        raise ValueError(
            f"{engine.lm.name} has no gradient by its input embeddings, and so it can be evaluated "
            f"and not optimised: {reason}"
        )
    rounding = why_bits_differ(engine.lm, packs=engine.can_pack, kernels=kernels)
    if rounding is None and (engine.lm.device.type == "cpu" or _repeats(engine, kernels)):
        return ()
    rounding = rounding or "two passes over the same tokens differ"
    return (
        f"gradient: its last bits may differ from run to run ({rounding}); where two candidates "
        "score nearly alike, another one may be shortlisted",
    )


def _what_cuts(lm: LM) -> str | None:
    """The layers that a gradient does not come through, in words; None where there are none."""
    batch = trial_batch(lm)[:1]
    with torch.enable_grad(), gradient_watched(lm.model) as cut, WholePass(lm).states(batch) as of:
        of(leaf_of(lm, batch))
    if not cut:
        return None
    return f"{listed(cut, 3)} would pass no gradient on: use another kind of quantisation"


def _repeats(engine: Engine, kernels: str) -> bool:
    """Whether a pass gives the same bits again."""
    batch, way = trial_batch(engine.lm), choose_pass(engine, kernels)
    first, again = (states_and_gradients(engine.lm, batch, way.states(batch)) for _ in range(2))
    return all(map(torch.equal, first, again))


def trial_batch(lm: LM) -> list[ExampleSequence]:
    """Two short sequences to try a pass with."""
    ids = lm.vocabulary.ids(" the answer is that one plus two and then some more of it") * 8
    return [
        ExampleSequence(
            row=number,
            ids=tuple(ids[number : number + length + 1]),  # the last one is no input
            place=place,
            read_rows=tuple(range(read, length)),
            terms=Terms((), 0.0, (ids[0],)),
        )
        for number, (length, place, read) in enumerate(_TRIED)
    ]


def states_and_gradients(
    lm: LM, batch: Sequence[ExampleSequence], way: contextlib.AbstractContextManager[StatesOf]
) -> tuple[torch.Tensor, torch.Tensor]:
    """States [R, D] as read, and the gradients [B, D] at the places of a drawn sum of them."""
    leaf = leaf_of(lm, batch)
    with torch.enable_grad(), way as states_of:
        states = states_of(leaf)  # [R, D]
        factors = [_drawn(s.row, len(s.read_rows), states) for s in batch]
        with gradient_everywhere():
            (gradients,) = torch.autograd.grad(states, leaf, torch.cat(factors))
    return states.detach(), gradients


def _drawn(seed: int, num_rows: int, like: torch.Tensor) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, like.shape[1], generator=source).to(like)


def _why_not_whole(lm: LM) -> str | None:
    """Why a leaf in place of embeddings is not what the model reads, or None where it is."""
    ids = lm.vocabulary.ids(" the answer is that one plus two and then some more of it")
    terms = Terms((), 0.0, (ids[0],))
    batch = [
        ExampleSequence(number, tuple(row), 2, (len(row) - 2,), terms)
        for number, row in enumerate((ids[:5], ids * 2))
    ]
    leaf = leaf_of(lm, batch)
    try:
        with torch.enable_grad(), WholePass(lm).states(batch) as states_of:
            states = states_of(leaf)
            (gradient,) = torch.autograd.grad(states[:, 0].sum(), leaf, materialize_grads=True)
    except Exception as error:  # whatever the model's own code raises
        if is_out_of_memory(error):
            raise
        return f"its forward pass ends in {said(error)}"
    own = lm.hidden_at([s.ids[:-1] for s in batch], [s.read_rows for s in batch])
    if not gradient.any():
        return "its states do not depend on them"
    return None if alike(states, own) else "put into a row, they change its states"
