"""What a step of the method takes at least on a GPU, from its rates and from counted work.

rollouts   every step reads all weights but the embedding, and each token its context's K/V
gradient   4 FLOP a weight and token: there, and back to the inputs alone
score      one reading of the embedding
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.harness.machine import copy_rate, product_rate
from greater_fast.memory.shapes import ModelShapes
from greater_fast.model.lm import LM


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes a second that a device moves, FLOP a second that it multiplies."""

    bytes_per_second: float
    flops_per_second: float

    @classmethod
    def measured(cls, lm: LM, smoke: bool) -> Rates:
        """Those of the model's device: of a large copy, and of a square product in its dtype."""
        size = 256 if smoke else 8192
        return cls(
            copy_rate(lm.device, 1 << (20 if smoke else 30)),
            product_rate(lm.device, lm.dtype, size),
        )


@dataclass(frozen=True, slots=True)
class ModelWork:
    """What a model's tokens cost: bytes of the weights that a step reads, and of them the head's.

    `layer_weights` are the numbers that a token is multiplied by in the layers.
    """

    weight_bytes: int
    head_bytes: int
    layer_weights: int
    kv_token_bytes: int
    embedding_bytes: int

    @classmethod
    def of(cls, lm: LM) -> ModelWork:
        """Of any model; the embedding is looked up, unless it is the head too."""
        embedding = lm.model.get_input_embeddings().weight
        head = lm.model.get_output_embeddings().weight
        total = sum(weight.numel() for weight in lm.model.parameters())
        layers = total - embedding.numel() - (0 if head is embedding else head.numel())
        size = lm.dtype.itemsize
        return cls(
            weight_bytes=(layers + head.numel()) * size,
            head_bytes=head.numel() * size,
            layer_weights=layers,
            kv_token_bytes=ModelShapes.of(lm).kv_token_bytes,
            embedding_bytes=embedding.numel() * size,
        )

    def rollout_seconds(self, rates: Rates, steps: int, contexts: int) -> float:
        """Of so many steps; `contexts` are the lengths of the contexts of all tokens, summed."""
        moved = steps * self.weight_bytes + contexts * self.kv_token_bytes
        return moved / rates.bytes_per_second

    def gradient_seconds(self, rates: Rates, num_tokens: int) -> float:
        """Of so many tokens from the place on."""
        return 4 * self.layer_weights * num_tokens / rates.flops_per_second

    def score_seconds(self, rates: Rates) -> float:
        """Of dot products with the whole vocabulary."""
        return self.embedding_bytes / rates.bytes_per_second


def contexts_of(start: int, new_tokens: int, num_sequences: int) -> int:
    """Lengths of the contexts that sequences read from their first new token to the last."""
    return num_sequences * sum(range(start, start + new_tokens))


def describe_share(seconds: float, floor: float) -> str:
    """A figure beside its floor."""
    return f"{seconds:.2f} s, {floor / seconds:.0%} of the floor's {floor:.2f} s"


def rates_text(rates: Rates) -> str:
    """The rates that floors were made with."""
    return (
        f"{rates.bytes_per_second / 1e9:,.0f} GB/s of a copy, "
        f"{rates.flops_per_second / 1e12:,.1f} TFLOP/s of a product"
    )
