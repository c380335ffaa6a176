"""How a transformers model is given another attention: a registered function, and its arguments."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from greater_fast.model.byte_sizes import is_out_of_memory
from greater_fast.model.checks import said

if TYPE_CHECKING:
    from greater_fast.model.lm import LM

_IGNORED = {"position_ids", "cache_position", "use_cache", "output_attentions", "is_causal"}

# (module, query [1, H, M, D], key and value [1, KV, M, D], mask, **options) -> ([1, M, H, D], None)
AttentionFunction = Callable[..., tuple[torch.Tensor, None]]
MaskFunction = Callable[..., torch.Tensor | None]  # as transformers' `sdpa_mask`


@dataclass(frozen=True, slots=True)
class TurningAttention:
    """An attention function that can norm and turn queries and keys itself.

    Where `turns` (`kernels.reference.Turns`) are among its options, they come as they are.
    """

    function: AttentionFunction

    def __call__(self, *states: Any, **options: Any) -> tuple[torch.Tensor, None]:
        """The attention, in the form transformers calls it."""
        return self.function(*states, **options)


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """What a layer asks of its attention; 0 where it asks for no soft cap or no window."""

    scale: float
    soft_cap: float
    window: int


@contextlib.contextmanager
def attention(
    lm: LM, name: str, function: AttentionFunction, mask: MaskFunction | None = None
) -> Iterator[None]:
    """Let a model attend by `function`, registered under `name`, with masks made by `mask`.

    The registry is the process's, so each model has its own name there: others run in threads.
    Without a mask function transformers makes no masks, and never looks at the positions, which
    would have a GPU waited for.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    config = lm.model.config.get_text_config()
    name = f"{name}_{id(config)}"
    own = config._attn_implementation
    try:  # Ctrl-C may come before all of it is done
        ALL_ATTENTION_FUNCTIONS.register(name, function)
        if mask is not None:
            ALL_MASK_ATTENTION_FUNCTIONS.register(name, mask)
        config._attn_implementation = name
        yield
    finally:
        config._attn_implementation = own
        ALL_ATTENTION_FUNCTIONS._global_mapping.pop(name, None)
        ALL_MASK_ATTENTION_FUNCTIONS._global_mapping.pop(name, None)


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
        names = ", ".join(sorted(strange))
        what = f"what is not understood here: {names}" if names else "a mask or dropout"
        raise ValueError(f"its attention takes {what}")
    return known


def passed(options: dict[str, Any], name: str) -> Any:
    """What the decoder was given under a name, taken out of an attention function's options.

    Raises:
        ValueError: it did not come through.
    """
    if name not in options:
        raise ValueError("its layers do not pass on to their attention what the model is given")
    return options.pop(name)


def obstacle_of(error: Exception) -> str:
    """Why a model does not run with another attention, from what its forward pass raised.

    A ValueError is a sentence; else the model's own code trips over what it is not given. Memory
    that ends says nothing of the model, and is raised again.
    """
    if is_out_of_memory(error):
        raise error
    if isinstance(error, ValueError):
        return str(error)
    return f"its forward pass of packed tokens ends in {said(error)}"


def steady_length(lm: LM) -> int | None:
    """Tokens of a sequence up to which no rotary embedding depends on how many there are.

    None where none ever does. A long RoPE has other factors beyond the length that the model was
    first trained with, and none of them before.
    """
    config = lm.model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    lengths = []
    for part in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        if part.get("rope_type") == "dynamic":
            lengths.append(0)
        if part.get("rope_type") == "longrope":
            lengths.append(part.get("original_max_position_embeddings") or 0)
    return min(lengths, default=None)


def rotates_by_length(lm: LM, longest: int | None = None) -> bool:
    """Whether a token's rotary embedding depends on how long its sequence is, up to `longest`."""
    steady = steady_length(lm)
    return steady is not None and (longest is None or longest > steady)
