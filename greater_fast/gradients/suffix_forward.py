"""The model over suffixes: tokens from a changed place on, behind keys and values that stay.

The transformers module stays unchanged: an attention function is registered while a pass lasts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from greater_fast.gradients.packed_row import KeysValues, PackedRow, Prefix, Segment, attend_in_row
from greater_fast.model.attention_interface import attention, obstacle_of, rotates_by_length
from greater_fast.model.far_attention import far_obstacle
from greater_fast.model.kv_cache import Blocks, num_layers
from greater_fast.model.lm import LM
from greater_fast.model.padding import alike

_NAME = "greater_fast_suffixes"


@dataclass(frozen=True, slots=True)
class ComputedPrefix:
    """A prefix that was computed for the occasion; `layers` by their index."""

    num_tokens: int
    layers: dict[int, KeysValues]

    def blocks(self, index: int) -> Blocks:
        """A layer's keys and values as a single block."""
        keys, values = self.layers[index]
        return Blocks(keys[None], values[None], [0])

    def layer(self, index: int) -> KeysValues:
        """Keys and values [KV, num_tokens, D] of a layer."""
        return self.layers[index]


@contextlib.contextmanager
def packed(lm: LM, segments: Sequence[Segment]) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """A forward pass over packed segments: embeddings [M, D] -> their last states [R, D] as read.

    It is there until the end of the block: a backward pass belongs inside, it may compute layers
    again.

    Raises:
        ValueError: by the forward pass, where the model's attention is not understood here.
    """
    row = PackedRow(segments, num_layers(lm), lm.device)

    def forward(embedded: torch.Tensor) -> torch.Tensor:
        output = lm.decoder(
            inputs_embeds=embedded[None],
            position_ids=row.positions[None],
            use_cache=False,
            packed_row=row,
        )
        states: torch.Tensor = output.last_hidden_state[0, row.read_rows]
        return states

    with attention(lm, _NAME, attend_in_row), _last_mlp_at(lm, row):
        yield forward


@contextlib.contextmanager
def _last_mlp_at(lm: LM, row: PackedRow) -> Iterator[None]:
    """Compute the last layer's MLP for the rows that are read alone; zero stands for the others."""
    layers = getattr(lm.decoder, "layers", None)
    mlp = getattr(layers[-1], "mlp", None) if layers else None
    if mlp is None or len(row.read_rows) in (0, row.num_tokens):
        yield
        return

    def pick(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0][:, row.read_rows], *inputs[1:])

    def spread(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        nothing = output.new_zeros(1, row.num_tokens, output.shape[-1])
        return nothing.index_copy(1, row.read_rows, output)

    hooks = mlp.register_forward_pre_hook(pick), mlp.register_forward_hook(spread)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def computed_prefixes(
    lm: LM, contexts: Sequence[Sequence[int]], found: Sequence[Prefix | None]
) -> list[Prefix]:
    """Keys and values of whole contexts, constants: those found, and the rest behind them."""
    prefixes: list[Prefix] = []
    segments: list[Segment] = []
    missing: list[int] = []
    for ids, prefix in zip(contexts, found, strict=True):
        if prefix and prefix.num_tokens == len(ids):
            prefixes.append(prefix)
            continue
        rest = ids[prefix.num_tokens if prefix else 0 :]
        layers: dict[int, KeysValues] = {}
        prefixes.append(ComputedPrefix(len(ids), layers))
        segments.append(Segment(len(rest), prefix, kept=layers))
        missing.extend(rest)
    if missing:
        with torch.no_grad(), packed(lm, segments) as forward:
            forward(lm.embed(torch.tensor(missing, device=lm.device)))
    return prefixes


def why_not(lm: LM, longest: int | None = None) -> str | None:
    """Why a model cannot run over packed suffixes, or None where it can: tried, not assumed.

    Two sequences, cut behind their first tokens, are compared with the model's own pass of each;
    what no short sequence shows is tried up to `longest`, the tokens of a sequence at most.
    """
    if rotates_by_length(lm, longest):
        return "its rotary embedding depends on the length of the sequence"
    ids = lm.vocabulary.ids(" the answer is that one plus two and then some more of it")
    sequences, start = [ids[:4], (ids * 4)[:37]], 2
    rows = [range(1, len(sequence) - start) for sequence in sequences]
    suffixes = torch.tensor([i for s in sequences for i in s[start:]], device=lm.device)
    try:
        prefixes = computed_prefixes(lm, [s[:start] for s in sequences], [None, None])
        segments = [
            Segment(len(s) - start, prefix, read)
            for s, prefix, read in zip(sequences, prefixes, rows, strict=True)
        ]
        with torch.no_grad(), packed(lm, segments) as forward:
            found = forward(lm.embed(suffixes))
    except Exception as error:  # whatever the model's own code raises
        return obstacle_of(error)
    own = lm.hidden_at(sequences, [[start + i for i in read] for read in rows])
    if not alike(found, own):
        return "a packed forward pass differs from its own"
    try:
        return far_obstacle(lm, longest)
    except Exception as error:  # whatever the model's own code raises
        return obstacle_of(error)
