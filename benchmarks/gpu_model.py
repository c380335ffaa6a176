"""A model of Llama-3-8B's shapes with random weights, made on the spot, and what it must read."""

from dataclasses import dataclass
from typing import Any

import torch

from greater_fast.lm import LM, load_lm

LLAMA_3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1300,
    "max_position_embeddings": 1024,
}


@dataclass(frozen=True, slots=True)
class ModelBytes:
    """What a step reads of the weights, and what a token's keys and values take."""

    weights: int
    kv_per_token: int


def random_lm(smoke: bool) -> LM:
    """The model with a tiny tokenizer: bfloat16 on a GPU, float32 on a CPU."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    from tests.tiny import tiny_tokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    shapes: dict[str, Any] = TINY if smoke else LLAMA_3_8B
    config = LlamaConfig(**shapes, bos_token_id=0, eos_token_id=1, tie_word_embeddings=False)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return load_lm((model, tiny_tokenizer("llama3")))


def model_bytes(lm: LM) -> ModelBytes:
    """The embedding is looked up, not read; all other weights are."""
    embedding = lm.model.get_input_embeddings().weight
    numbers = sum(weight.numel() for weight in lm.model.parameters()) - embedding.numel()
    config = lm.model.config
    head_width = config.hidden_size // config.num_attention_heads
    kv = 2 * config.num_hidden_layers * config.num_key_value_heads * head_width
    return ModelBytes(numbers * lm.dtype.itemsize, kv * lm.dtype.itemsize)
