"""The model over suffixes: tokens from a changed place on, behind keys and values that stay.

The transformers module stays unchanged: an attention function is registered while a pass lasts.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from greater_fast.gradients.attention_choice import choose_attention
from greater_fast.gradients.packed_row import PackedRow, attend_in_row
from greater_fast.gradients.prefix_store import PrefixStore
from greater_fast.gradients.segments import Segment
from greater_fast.model.attention.interface import attention
from greater_fast.model.kv_cache import PrefixKV, num_layers
from greater_fast.model.lm import LM

_NAME = "greater_fast_suffixes"


@contextlib.contextmanager
def packed(
    lm: LM,
    segments: Sequence[Segment],
    kernels: str = "auto",
    store: PrefixStore | None = None,
) -> Iterator[Callable[..., torch.Tensor]]:
    """A forward pass over packed segments: embeddings [M, D] -> their last states [R, D] as read.

    It is there until the end of the block: a backward pass belongs inside, it may compute layers
    again. A `store` takes the keys and values of all tokens. The pass takes the tokens' ids [M] as
    well, of which some models (Gemma 3n and 4) have further embeddings.

    Raises:
        ValueError: by the forward pass, where the model's attention is not understood here;
            Triton was forced, and cannot run.
    """
    backend = choose_attention(lm, kernels)
    row = PackedRow(segments, num_layers(lm), lm.device, backend, store)

    def forward(embedded: torch.Tensor, ids: torch.Tensor | None = None) -> torch.Tensor:
        row.attended.clear()
        with _embedded_as(lm, embedded[None], ids) as given:
            output = lm.decoder(
                **given, position_ids=row.positions[None], use_cache=False, packed_row=row
            )
        _check_attended(row.attended, num_layers(lm))
        states: torch.Tensor = output.last_hidden_state[0, row.read_rows]
        return states

    with attention(lm, _NAME, attend_in_row), _last_mlp_at(lm, row):
        yield forward


@contextlib.contextmanager
def _embedded_as(
    lm: LM, embedded: torch.Tensor, ids: torch.Tensor | None
) -> Iterator[dict[str, torch.Tensor]]:
    """What gives a decoder tokens with embeddings [1, M, D] of their own, by its own names.

    One that has more embeddings of a token reads its id. Without it, it would look for it among the
    whole vocabulary.
    """
    if ids is None or getattr(lm.decoder, "embed_tokens_per_layer", None) is None:
        yield {"inputs_embeds": embedded}
        return
    with embeddings_changed(lm, lambda _: embedded):
        yield {"input_ids": ids[None]}


@contextlib.contextmanager
def embeddings_changed(lm: LM, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Let others stand for the embeddings [B, T, D] of what the model is given as ids."""
    module = lm.model.get_input_embeddings()
    hook = module.register_forward_hook(lambda _, __, output: change(output))
    try:
        yield
    finally:
        hook.remove()


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


def _check_attended(attended: Counter[int], num_layers: int) -> None:
    """Raise ValueError unless each layer has attended over the packed row, and did so once."""
    if len(attended) != num_layers:
        raise ValueError(f"{len(attended)} of its {num_layers} layers use the attention interface")
    if attended.total() > num_layers:
        raise ValueError("its layers attend more than once each")


def computed_prefixes(
    lm: LM,
    contexts: Sequence[Sequence[int]],
    found: Sequence[PrefixKV | None],
    kernels: str = "auto",
) -> list[PrefixKV | None]:
    """Keys and values of whole contexts, constants: those found, or all of them in a new store.

    A context without tokens has none.
    """
    pairs = list(zip(contexts, found, strict=True))
    if all(len(ids) == (prefix.num_tokens if prefix else 0) for ids, prefix in pairs):
        return list(found)
    rests = [ids[prefix.num_tokens if prefix else 0 :] for ids, prefix in pairs]
    segments = [Segment(len(rest), prefix) for rest, prefix in zip(rests, found, strict=True)]
    store = PrefixStore([len(ids) for ids in contexts], found, lm.device)
    missing = torch.tensor([i for rest in rests for i in rest], device=lm.device)
    with torch.no_grad(), packed(lm, segments, kernels, store) as forward:
        forward(lm.embed(missing), missing)
    return [prefix if prefix.num_tokens else None for prefix in store.prefixes]
