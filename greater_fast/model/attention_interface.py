"""How a transformers model is given another attention: a registered function, and its arguments."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from greater_fast.model.lm import LM

_IGNORED = {"position_ids", "cache_position", "use_cache", "output_attentions", "is_causal"}

# (module, query [1, H, M, D], key and value [1, KV, M, D], mask, **options) -> ([1, M, H, D], None)
AttentionFunction = Callable[..., tuple[torch.Tensor, None]]


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """What a layer asks of its attention; 0 where it asks for no soft cap or no window."""

    scale: float
    soft_cap: float
    window: int


@contextlib.contextmanager
def attention(lm: LM, name: str, function: AttentionFunction) -> Iterator[None]:
    """Let a model attend by `function`, registered under `name`, with no mask made for it."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    # No mask function of that name: transformers makes none then, without a look at the positions,
    # which would have a GPU waited for.
    ALL_ATTENTION_FUNCTIONS.register(name, function)
    config = lm.model.config.get_text_config()
    own = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = own


def read_options(
    query: torch.Tensor, attention_mask: torch.Tensor | None, options: dict[str, Any]
) -> AttentionOptions:
    """The options of one call of an attention function.

    Raises:
        ValueError: an argument whose meaning is not known here (attention sinks, a bias).
    """
    rest = dict(options)
    known = AttentionOptions(
        scale=rest.pop("scaling", None) or query.shape[-1] ** -0.5,
        soft_cap=rest.pop("softcap", None) or 0.0,
        window=rest.pop("sliding_window", None) or 0,
    )
    dropout = rest.pop("dropout", 0.0)
    strange = {name for name, value in rest.items() if value is not None} - _IGNORED
    if strange or dropout or attention_mask is not None:
        raise ValueError(f"its attention takes {', '.join(sorted(strange)) or 'a mask or dropout'}")
    return known


def rotates_by_length(lm: LM) -> bool:
    """Whether a token's rotary embedding depends on how long its sequence is."""
    rope = getattr(lm.model.config.get_text_config(), "rope_parameters", None) or {}
    kinds = {rope.get("rope_type")} | {
        part.get("rope_type") for part in rope.values() if isinstance(part, dict)
    }
    return bool(kinds & {"dynamic", "longrope"})
