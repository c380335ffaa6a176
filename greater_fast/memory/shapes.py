"""The sizes of a model that its memory depends on, and what a token takes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from greater_fast.model.layers import LayerShape, recomputable_layers, width
from greater_fast.model.lm import LM
from greater_fast.model.parallel.sizes import bytes_of_rank, is_packed

_SCALE_BITS = (
    0.5  # a weight of few bits shares a float32 scale with 63 others, as bitsandbytes has it
)
_NUMBER = re.compile(r"(?:int|float|fp|nf)([48])")
_KEPT_WHOLE = ("modules_to_not_convert", "llm_int8_skip_modules")
_OF_WEIGHT = re.compile(r"(?:int|float|fp|nf)([48])_?weight")  # activations may have others
_FP8_CAPABILITY = (8, 9)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShapes:
    """What a plan needs to know of a model.

    `weight_bytes` counts tied weights once, and of a model that ranks share a rank's part;
    `linear_bytes` are those of them that 4-bit weights would shrink. `itemsize` is that of
    activations, and of keys and values.
    `normed` are the numbers of a token that a layer's norms divide, the most of all layers; two
    states of the model's width where it is not known. `recomputable` says whether a gradient can
    compute the layers twice.
    """

    weight_bytes: int
    linear_bytes: int
    layers: tuple[LayerShape, ...]
    width: int
    vocab_size: int
    itemsize: int
    normed: int = 0
    num_ranks: int = 1
    recomputable: bool = True

    @classmethod
    def of(cls, lm: LM) -> ModelShapes:
        """The shapes of a model, be its weights there or not.

        Raises:
            ValueError: the configuration does not say how many layers there are, or how wide.
        """
        config = lm.model.config.get_text_config()
        weight_bytes, linear_bytes = _weights(lm)
        shapes = lm.layer_shapes
        return cls(
            weight_bytes=weight_bytes,
            linear_bytes=linear_bytes,
            layers=shapes,
            width=width(config),
            vocab_size=lm.vocab_size,
            itemsize=lm.dtype.itemsize,
            normed=_normed(lm, shapes),
            num_ranks=lm.ranks.size,
            recomputable=bool(recomputable_layers(lm.model)),
        )

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return len(self.layers)

    @property
    def kv_token_bytes(self) -> int:
        """Keys and values of one token, in all layers; 0 where the model keeps none."""
        return self.itemsize * sum(layer.cached_numbers for layer in self.layers)

    @property
    def kv_layer_bytes(self) -> int:
        """Keys and values of one token as the widest layer's attention takes them."""
        return self.itemsize * max(layer.kv_numbers for layer in self.layers)

    @property
    def is_rough(self) -> bool:
        """Whether there are layers that are no attention: what they keep is guessed."""
        return any(layer.num_heads == 0 or layer.state_size for layer in self.layers)

    def activation_bytes(self, num_tokens: int, *, checkpointing: bool = False) -> int:
        """About what autograd keeps of tokens on their way through the layers; rather too much.

        A layer keeps, of each token: what its norms divide, twice, in at least float32 (their
        inputs, and these divided), its queries and what attention made of them, its keys
        and values twice (prefixes as long as suffixes), and 2 vectors inside the MLP (input of the
        activation function, and its factor). What a router's experts give is kept, to be weighted.
        A recurrent layer keeps 4 states of each channel in
        float32 (a scan's decay, its input, and what both come to). With checkpointing only each
        layer's input is kept, and one layer at a time is as above.
        """
        layers = [self._layer_bytes(layer) for layer in self.layers]
        if checkpointing:
            return num_tokens * (self.num_layers * self.width * self.itemsize + max(layers))
        return num_tokens * sum(layers)

    def _layer_bytes(self, layer: LayerShape) -> int:
        size = self.itemsize
        norms = 2 * (self.normed or 2 * self.width) * max(size, 4)
        queries = layer.num_heads * (layer.key_size + layer.value_size)
        attention = (queries + 2 * layer.kv_numbers) * size
        states = 4 * layer.inner * layer.state_size * 4
        mlp = (2 * layer.inner + layer.num_experts * self.width) * size
        return norms + attention + mlp + states

    def in_16_bits(self) -> ModelShapes:
        """The same model with weights and activations of 2 bytes."""
        return replace(
            self,
            weight_bytes=self.weight_bytes * 2 // self.itemsize,
            linear_bytes=self.linear_bytes * 2 // self.itemsize,
            itemsize=2,
        )

    def in_4_bits(self) -> ModelShapes:
        """The same model with the weights of its linear layers in 4 bits; embeddings stay."""
        small = _packed_bytes(self.linear_bytes // self.itemsize, 4)
        return replace(
            self, weight_bytes=self.weight_bytes - self.linear_bytes + small, linear_bytes=0
        )


def _normed(lm: LM, shapes: tuple[LayerShape, ...]) -> int:
    """Numbers of a token that the norms of one layer divide, the most of all layers.

    A norm whose weights are as many as a head is wide divides all heads' queries or keys.
    """
    most = 0
    for layer, shape in zip(getattr(lm.decoder, "layers", ()), shapes, strict=False):
        heads = {"q_": shape.num_heads, "k_": shape.num_kv_heads}
        normed = 0
        for name, module in layer.named_modules():
            weight = getattr(module, "weight", None)
            if "Norm" not in type(module).__name__ or weight is None:
                continue
            is_of_heads = weight.numel() == shape.key_size
            normed += weight.numel() * (heads.get(name.split(".")[-1][:2], 1) if is_of_heads else 1)
        most = max(most, normed)
    return most


def _weights(lm: LM) -> tuple[int, int]:
    """Bytes of all parameters and buffers, and of them those that could have fewer bits."""
    total = bytes_of_rank(lm.model, lm.ranks.size)
    if lm.ranks.size > 1:  # weights of few bits are not shared
        return total, 0
    head = lm.model.get_output_embeddings()
    linears = {
        id(module.weight): module.weight
        for module in lm.model.modules()
        if isinstance(module, nn.Linear)
        and module is not head
        and module.weight.dtype.is_floating_point
        and not is_packed(module.weight)
    }
    linear_bytes = sum(weight.nbytes for weight in linears.values())
    settings = getattr(lm.model.config, "quantization_config", None)
    bits = _bits(settings)
    if lm.device.type != "meta" or bits is None:
        return total, linear_bytes
    whole = {id(module.weight) for module in _kept_whole(lm.model, settings)}
    packed = [weight for number, weight in linears.items() if number not in whole]
    saved = sum(weight.nbytes for weight in packed)
    return total - saved + _packed_bytes(sum(weight.numel() for weight in packed), bits), 0


def _kept_whole(model: nn.Module, settings: Any) -> list[nn.Linear]:
    """The linear layers that a quantised checkpoint has in full, by its configuration."""
    values = _values(settings)
    kept = [n for key in _KEPT_WHOLE for n in values.get(key) or () if isinstance(n, str)]
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(f".{own}." in f".{name}." for own in kept)
    ]


def _packed_bytes(num_weights: int, bits: int) -> int:
    return int(num_weights * (bits + _SCALE_BITS) / 8)


def _bits(settings: Any) -> int | None:
    """Bits of a weight in a checkpoint that is quantised, as its configuration says; else None."""
    if settings is None:
        return None
    values = _values(settings)
    for name, bits in (("load_in_4bit", 4), ("load_in_8bit", 8)):
        if values.get(name):
            return bits
    if isinstance(values.get("bits"), int):
        return int(values["bits"])
    kind = " ".join(str(values.get(name, "")) for name in ("quant_method", "quant_type")).lower()
    if "fp8" in kind and _widens_fp8():
        return None
    found = _OF_WEIGHT.search(kind) or _NUMBER.search(kind)
    return int(found[1]) if found else None


def _values(settings: Any) -> dict[str, Any]:
    """A quantisation's settings by name."""
    values: dict[str, Any] = settings if isinstance(settings, dict) else settings.to_dict()
    return values


def _widens_fp8() -> bool:
    """Whether transformers makes an FP8 checkpoint one of 16 bits: this GPU cannot multiply it."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() < _FP8_CAPABILITY
