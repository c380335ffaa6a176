"""What the parts of run_gpu.sh share: sizes, and a model of Llama-3-8B's shapes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.harness.machine import synchronize
from greater_fast.config import Config
from greater_fast.engine import EngineFacts
from greater_fast.memory.budget import RowLengths
from greater_fast.memory.plan import plan_memory
from greater_fast.memory.shapes import ModelShapes
from greater_fast.model.byte_sizes import memory_bytes
from greater_fast.model.lm import LM, load_lm

GIB = 1 << 30
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


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCase:
    """Sizes of the rollouts, and of a step; generated tokens by size of a batch of `generate`."""

    num_heads: int = 50
    head_tokens: int = 150
    num_prompts: int = 3
    prompt_tokens: int = 20
    new_tokens: int = 256
    generated: dict[int, int]
    num_rows: int = 50
    reference_rows: int = 4


FULL = GpuCase(generated={9: 64, 150: 256})
SMOKE = GpuCase(
    num_heads=3,
    head_tokens=20,
    prompt_tokens=4,
    new_tokens=5,
    generated={2: 3, 9: 2},
    num_rows=3,
    reference_rows=2,
)
# What a part found: figures, and a line of text for the table.
Found = tuple[dict[str, Any], str]


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


def planned_pool(lm: LM, lengths: RowLengths, config: Config) -> int:
    """Bytes of the K/V pool that the plan of a run has, of what the device has for it.

    Raises:
        ValueError: the run does not fit; says what it takes.
    """
    shapes = ModelShapes.of(lm)
    total = memory_bytes(lm.device, shapes.weight_bytes)
    plan = plan_memory(shapes, lengths, config, total, device_type=lm.device.type)
    if not plan.fits:
        raise ValueError("; ".join((plan.verdict, *plan.advice)))
    assert plan.pool_bytes is not None
    return plan.pool_bytes


def engine_text(facts: EngineFacts) -> str:
    """What a line of the table says of the engine: enough to tell why a figure is as it is."""
    graph = "CUDA graph" if facts.has_graph else f"no CUDA graph ({facts.no_graph or 'none asked'})"
    sizes = ", ".join(f"{size}: {ms:.1f}" for size, ms in facts.step_ms.items())
    invariant = "batch invariant" if facts.batch_invariant else "not batch invariant"
    return (
        f"{facts.attention}, {graph}, {facts.step_tokens} tokens a step"
        + (f" (ms by size: {sizes})" if sizes else "")
        + f", {invariant}, {facts.preemptions} preemptions, "
        f"{facts.accepted_tokens} of {facts.drafted_tokens} drafted tokens accepted"
    )


def timed(device: torch.device, run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and what it gave."""
    synchronize(device)
    start = time.perf_counter()
    result = run()
    synchronize(device)
    return time.perf_counter() - start, result
