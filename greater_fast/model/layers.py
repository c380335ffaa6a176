"""What each decoder layer of a model is like, as its configuration says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_RECURRENT = {"linear_attention", "mamba", "conv", "recurrent", "mlp", "moe"}  # no keys and values
# How many experts a token is sent to; those that every token goes through beside them, or how wide.
_NUM_EXPERTS = ("num_experts_per_tok", "num_experts_per_token")
_NUM_SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
_SHARED_WIDTHS = ("shared_expert_intermediate_size", "shared_intermediate_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """Counts and sizes of one layer.

    `num_heads` and `num_kv_heads` are 0 where a layer does not attend. `key_size` and `value_size`
    are of one head. `inner` is the width inside the MLP, over all experts that a token goes
    through, shared ones too, and inside a recurrent layer; `state_size` is what such a layer keeps
    for each channel. `num_experts` are those of them that a router picks and weights, else 0.
    `latent_size` is what is kept of a token where all heads' keys and values are made from that
    (multi-head latent attention), else 0.
    """

    num_heads: int
    num_kv_heads: int
    key_size: int
    value_size: int
    inner: int
    num_experts: int = 0
    state_size: int = 0
    latent_size: int = 0

    @property
    def kv_numbers(self) -> int:
        """Numbers in the keys and values of one token, as attention takes them."""
        return self.num_kv_heads * (self.key_size + self.value_size)

    @property
    def cached_numbers(self) -> int:
        """Numbers that are kept of one token for those that follow."""
        return self.latent_size or self.kv_numbers


def layer_shapes(config: Any) -> tuple[LayerShape, ...]:
    """The layers of a model with this (text) configuration.

    Raises:
        ValueError: the configuration does not say how many there are, or how wide.
    """
    return tuple(_shape(config, layer) for layer in range(num_layers(config)))


def num_layers(config: Any) -> int:
    """How many decoder layers a (text) configuration names."""
    return _required(config, "decoder_layers", "num_hidden_layers")


def width(config: Any) -> int:
    """The width of the states that go from layer to layer."""
    return _required(config, "hidden_size")


def layer_config(config: Any, layer: int) -> Any:
    """The configuration of one layer: newer ones may differ from layer to layer."""
    parts = getattr(config, "per_layer_config", None)
    return config if parts is None or layer >= len(parts) else parts[layer]


def recomputable_layers(model: Any) -> list[Any]:
    """The layers of a model that can be computed again on the way back of a gradient."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]


def _shape(config: Any, layer: int) -> LayerShape:
    own = layer_config(config, layer)

    def value(*names: str) -> int:
        """The first of these fields that is a number above 0, or a list of one for each layer."""
        for name in names:
            found = getattr(own, name, None)
            if isinstance(found, list | tuple) and layer < len(found):
                found = found[layer]
            if isinstance(found, int) and found > 0:
                return int(found)
        return 0

    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
    kind = kinds[layer] if kinds and layer < len(kinds) else ""
    names = ("num_attention_heads_per_layer", "decoder_attention_heads", "num_attention_heads")
    heads = 0 if kind in _RECURRENT else value(*names)
    key_size = value("head_dim") or width(config) // max(heads, 1)
    kv_heads = min(value("num_key_value_heads") or heads, heads)
    if value("multi_query") and not value("new_decoder_architecture"):  # Falcon, StarCoder
        kv_heads = min(1, heads)
    latent_size = 0
    if heads and value("kv_lora_rank"):  # every head has keys of two parts, one is shared by all
        key_size, kv_heads = value("qk_nope_head_dim") + value("qk_rope_head_dim"), heads
        latent_size = value("kv_lora_rank") + value("qk_rope_head_dim")
    is_recurrent = heads == 0 or kind.startswith("hybrid")
    return LayerShape(
        num_heads=heads,
        num_kv_heads=kv_heads,
        key_size=key_size,
        value_size=value("v_head_dim") or key_size,
        inner=_inner(config, value),
        num_experts=value(*_NUM_EXPERTS),
        state_size=value("state_size", "ssm_state_size", "mamba_d_state") if is_recurrent else 0,
        latent_size=latent_size,
    )


def _inner(config: Any, value: Callable[..., int]) -> int:
    dense = value("decoder_ffn_dim", "intermediate_size")
    of_expert = value("moe_intermediate_size") or dense
    shared = value(*_SHARED_WIDTHS) or value(*_NUM_SHARED) * of_expert
    recurrent = value("expand", "mamba_expand") * width(config)
    experts = (value(*_NUM_EXPERTS) or 1) * of_expert + shared
    return max(experts, dense, recurrent) or 4 * width(config)


def _required(config: Any, *names: str) -> int:
    for name in names:
        found = getattr(config, name, None)
        if isinstance(found, int) and found > 0:
            return int(found)
    kind = getattr(config, "model_type", type(config).__name__)
    raise ValueError(f"a model of the kind {kind} is not supported: it names no {names[-1]}")
