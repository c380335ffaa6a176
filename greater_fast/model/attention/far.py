"""What a model's attention asks for far from a sequence's start, seen without a long sequence.

A few tokens go through the model behind a cache that only says how many came before: so the model
makes its own masks and rotations for them. Beside it they go through as the engines do it, with
positions and no mask. Both must ask the same of every layer's attention, and a mask may hide no
more than the layer's own window does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from greater_fast.model.attention.interface import (
    AttentionOptions,
    attention,
    passed,
    read_options,
)
from greater_fast.model.forwards import lengths_of
from greater_fast.model.kv_cache import num_layers
from greater_fast.model.lm import LM

_NAME = "greater_fast_recorded"
_NUM_TOKENS = 4
_SEEN_OTHERWISE = 32  # lengths up to this lie within a packed pass that is compared as a whole
_LENGTH_FIELD = re.compile(r"window|chunk|block_size|floor|position|length|local|index_topk|budget")


class _Call(NamedTuple):
    layer: int
    states: tuple[torch.Tensor, ...]
    mask: torch.Tensor | None
    options: AttentionOptions


def far_obstacle(lm: LM, longest: int | None = None) -> str | None:
    """Why attention by positions and windows is not what the model means, or None where it is.

    It is tried at each length that the configuration names, and at the end of the longest sequence
    that is to come (`longest` tokens; None: of the model's own context): there every window or
    chunk has hidden something. Whatever the model's own code raises comes through.
    """
    limits = [limit for limit in (longest, lm.max_context) if limit]
    named = named_lengths(lm.model.config.get_text_config())
    most = min(limits) if limits else max(named, default=0) + _NUM_TOKENS
    around = [length - _NUM_TOKENS // 2 for length in named]
    for num_before in sorted({0, *around, most - _NUM_TOKENS}):
        if 0 <= num_before <= most - _NUM_TOKENS and (reason := _obstacle_behind(lm, num_before)):
            return reason
    return None


def named_lengths(config: Any) -> list[int]:
    """Lengths, in tokens, at which the attention of a model may change, as its fields name them."""
    found = {
        value
        for name, value in _numbers(config.to_dict())
        if _LENGTH_FIELD.search(name) and value > _SEEN_OTHERWISE
    }
    return sorted(found)


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """All whole numbers among the fields, with their names."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _numbers(part, str(key))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _numbers(part, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield name, value


def _obstacle_behind(lm: LM, num_before: int) -> str | None:
    own, ours = _calls_behind(lm, num_before)
    where = f"at token {num_before}"
    if [call.layer for call in own] != [call.layer for call in ours]:
        return f"{where} it attends in other layers behind a cache than without one"
    for call, other in zip(own, ours, strict=True):
        pairs = zip(call.states, other.states, strict=True)
        if call.options != other.options or not all(_alike(*pair) for pair in pairs):
            return (
                f"{where} the queries and keys of layer {call.layer} depend on more than the "
                "tokens and their positions"
            )
        expected = _visible_by(call.options.window, num_before, other.states[0])
        if call.mask is not None and not torch.equal(_visible(call.mask), expected):
            return (
                f"{where} the mask of layer {call.layer} hides other tokens than the window that "
                "its attention is told of"
            )
    return None


def _calls_behind(lm: LM, num_before: int) -> tuple[list[_Call], list[_Call]]:
    """The calls of attention for a few tokens: with the model's own masks, and with positions."""
    from transformers.masking_utils import sdpa_mask

    def mask(*arguments: Any, **named: Any) -> Any:
        return sdpa_mask(*arguments, **named | {"allow_is_causal_skip": False})

    ids = lm.vocabulary.ids(" the answer is that one plus two")[:_NUM_TOKENS]
    tokens = torch.tensor([ids], device=lm.device)
    positions = torch.arange(num_before, num_before + len(ids), device=lm.device)[None]
    own: list[_Call] = []
    ours: list[_Call] = []
    with torch.no_grad():
        with attention(lm, _NAME, _record, mask):
            cache = _claimed(lm, num_before)
            lm.decoder(input_ids=tokens, past_key_values=cache, calls=own)
        with attention(lm, _NAME, _record):
            lm.decoder(input_ids=tokens, position_ids=positions, use_cache=False, calls=ours)
    return own, ours


def _claimed(lm: LM, num_before: int) -> Any:
    """A cache that keeps nothing, and says that so many tokens are in it."""
    from transformers.cache_utils import Cache, DynamicLayer

    class Claimed(DynamicLayer):
        def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> Any:
            return key_states, value_states

        def get_seq_length(self) -> int:
            return num_before

        def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
            return num_before + query_length, 0

    make_layer: Any = Claimed  # transformers' classes have no types
    return Cache(layers=[make_layer() for _ in range(num_layers(lm))])


def _record(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Keep what a layer asks for; each token attends to itself alone."""
    calls: list[_Call] = passed(options, "calls")
    known = read_options(query, None, options)
    calls.append(_Call(module.layer_idx, (query, key, value), attention_mask, known))
    heads = query.shape[1] // value.shape[1]
    return value.repeat_interleave(heads, 1).transpose(1, 2).contiguous(), None


def _alike(states: torch.Tensor, other: torch.Tensor) -> bool:
    allowed = 1e-3 if states.dtype.itemsize > 2 else 2e-2
    distance, length = (lengths_of(x.flatten()) for x in (states - other, other))
    return states.shape == other.shape and bool(distance <= allowed * length)


def _visible(mask: torch.Tensor) -> torch.Tensor:
    """Whether each key [T, L] is seen, of a mask [1, 1 or H, T, L] in either form."""
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return seen.all(1)[0]


def _visible_by(window: int, num_before: int, queries: torch.Tensor) -> torch.Tensor:
    """The same of causal attention within a window (0: none) by queries [1, H, T, D]."""
    length = num_before + queries.shape[2]
    place = torch.arange(num_before, length, device=queries.device)[:, None]
    other = torch.arange(length, device=queries.device)
    seen = other <= place
    return seen & (other > place - window) if window else seen
