"""Which GPU runs which model, and with what settings, by the plan of memory: docs/gpu.md's table.

    python -m benchmarks.gpu.cards

Only shapes are made: no weights, no GPU. 50 rows are searched on, each of 150 tokens beside a
prompt that may grow to the 128 tokens of the default; three candidates are 150 rollouts.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.gpu.model import GIB
from greater_fast.config import Config
from greater_fast.memory.budget import MemoryPlan, RowLengths
from greater_fast.memory.plan import plan_memory
from greater_fast.memory.shapes import ModelShapes
from greater_fast.model.lm import LM
from greater_fast.model.text.vocabulary import Vocabulary
from tests.tiny import tiny_tokenizer

CARDS = {"16 GiB": 16, "24 GiB": 24, "48 GiB": 48, "80 GiB": 80}
ROWS = {"num_train": 50, "num_rows": 100}
HEAD_TOKENS = 150
_LLAMA_3 = {"model_type": "llama", "vocab_size": 128256}
# As their published configurations have them.
MODELS: dict[str, dict[str, Any]] = {
    "Llama 3.2 1B": {
        **_LLAMA_3,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "Llama 3.2 3B": {
        **_LLAMA_3,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": True,
    },
    "Qwen3 4B": {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": True,
    },
    "Gemma 3 4B": {
        "model_type": "gemma3_text",
        "vocab_size": 262208,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "tie_word_embeddings": True,
    },
    "Qwen 2.5 7B": {
        "model_type": "qwen2",
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "Llama 3 8B": {
        **_LLAMA_3,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
    "Gemma 2 9B": {
        "model_type": "gemma2",
        "vocab_size": 256000,
        "hidden_size": 3584,
        "intermediate_size": 14336,
        "num_hidden_layers": 42,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
        "tie_word_embeddings": True,
    },
}


def shapes_of(settings: dict[str, Any]) -> ModelShapes:
    """Of a model with this configuration, in bfloat16."""
    config = AutoConfig.for_model(**settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    vocabulary = Vocabulary(tiny_tokenizer("llama3"))
    return ModelShapes.of(LM(model, vocabulary.tokenizer, "", vocabulary, frozenset()))


def planned(shapes: ModelShapes, gib: int, **settings: Any) -> MemoryPlan:
    """The plan of a run with default settings but for these."""
    config = Config(**settings)
    longest = HEAD_TOKENS + config.max_prompt_tokens + config.max_new_tokens
    lengths = RowLengths(mean=longest, longest=longest, **ROWS)
    return plan_memory(shapes, lengths, config, gib * GIB)


def cell(shapes: ModelShapes, gib: int) -> str:
    """A model on a card: the pool and the gradient's tokens, or the first setting that fits."""
    for settings in ({}, {"max_new_tokens": 256}):
        plan = planned(shapes, gib, **settings)
        if plan.fits:
            assert plan.pool_bytes is not None
            twice = ", layers twice" if plan.checkpointing else ""
            named = "".join(f"`{name}={value}`: " for name, value in settings.items())
            return (
                f"{named}pool {plan.pool_bytes / GIB:.1f} GiB, gradient {plan.gradient_tokens} "
                f"tokens{twice}"
            )
    weights = planned(shapes, gib).needs[0].num_bytes
    return f"no: weights alone {weights / GIB:.1f} GiB" if weights > gib * GIB * 0.8 else "no"


def table() -> str:
    """Models by cards, in Markdown."""
    lines = [
        f"| | {' | '.join(CARDS)} |",
        f"|---|{'---|' * len(CARDS)}",
    ]
    for name, settings in MODELS.items():
        shapes = shapes_of(settings)
        lines.append(f"| {name} | {' | '.join(cell(shapes, gib) for gib in CARDS.values())} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
