"""How transformers' attention modules are called, and what they ask of their attention function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from greater_fast.model.attention.interface import attention
from greater_fast.model.forwards import Forward
from greater_fast.model.lm import LM

_NAME = "greater_fast_trial"


class RowCall(NamedTuple):
    """A call of an attention module with one row: `inputs` [1, M, K], `turns` two of [1, M, D]."""

    inputs: torch.Tensor
    turns: Sequence[torch.Tensor]
    mask: Any
    attend: Callable[..., Any]
    options: dict[str, Any]


class Given(NamedTuple):
    """What an attention function is given: its states [1, heads, M, D] and options."""

    states: tuple[torch.Tensor, ...]
    options: dict[str, Any]


def read_call(module: Any, arguments: Sequence[Any], options: dict[str, Any]) -> RowCall | None:
    """A call as engines make it, or None where it is another, or the module is being trained."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    rest = dict(options)
    inputs, turns, mask, cache = (
        rest.pop(name, None)
        for name in ("hidden_states", "position_embeddings", "attention_mask", "past_key_values")
    )
    attend = ALL_ATTENTION_FUNCTIONS.get(module.config._attn_implementation)
    is_known = inputs is not None and turns is not None and not arguments and cache is None
    if attend is None or not is_known or len(inputs) + len(turns[0]) != 2 or module.training:
        return None
    return RowCall(inputs, turns, mask, attend, rest)


def recorded(lm: LM, forward: Forward, arguments: dict[str, Any]) -> tuple[Given, torch.Tensor]:
    """What a module's forward asks of its attention, and what it makes of the answer."""
    calls: list[Given] = []

    def attend(
        _: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **rest: Any
    ) -> tuple[torch.Tensor, None]:
        assert mask is None
        calls.append(Given((query, key, value), rest))
        return query.transpose(1, 2).contiguous(), None

    with attention(lm, _NAME, attend):
        output, _ = forward(**arguments)
    (given,) = calls
    return given, output


def kept(options: dict[str, Any]) -> dict[str, Any]:
    """Options of the module's own, without that which it was called with."""
    return {name: value for name, value in options.items() if name != "use_cache"}
