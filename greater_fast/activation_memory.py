"""How much a gradient pass keeps for its way back, and how many tokens it may take at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from greater_fast.config import Config
from greater_fast.lm import LM

# From here on a processor's matrix products reach their rate (measured: 192), and a GPU no longer
# waits for weights alone: less is only taken where memory demands it.
EFFICIENT_TOKENS = 256
_GPU_TOKENS = 4096  # more would save nothing
_GPU_SHARE, _CPU_SHARE = 0.7, 0.25  # of what is free; the rest is for logits, and for others


@dataclass(frozen=True, slots=True)
class PassPlan:
    """Tokens of a micro-batch at most (or one example), and whether layers are computed twice."""

    max_tokens: int
    checkpointing: bool


def plan_pass(lm: LM, lengths: Sequence[int], config: Config) -> PassPlan:
    """The plan for examples of these lengths.

    Layers are computed twice only where a batch of decent size would not fit otherwise: recomputing
    costs half as much again, small batches cost little.
    """
    free = free_bytes(lm.device)
    is_cpu = lm.device.type == "cpu"
    usable = math.inf if free is None else free * (_CPU_SHARE if is_cpu else _GPU_SHARE)
    given = config.gradient_batch_tokens
    least = max(*lengths, 1, min(given or EFFICIENT_TOKENS, sum(lengths)))
    checkpointing = config.gradient_checkpointing == "on" or (
        config.gradient_checkpointing == "auto" and activation_bytes(lm, least) > usable
    )
    if given or lm.device.type != "cuda":
        return PassPlan(given or EFFICIENT_TOKENS, checkpointing)
    layer = activation_bytes(lm, 1, checkpointing) - activation_bytes(lm, 0, checkpointing)
    fitting = max(1, int(min(usable / layer, _GPU_TOKENS)))
    return PassPlan(fitting, checkpointing)


def activation_bytes(lm: LM, num_tokens: int, checkpointing: bool = False) -> int:
    """About what autograd keeps of a packed row of tokens, frozen weights aside: rather too much.

    A layer keeps inputs of its norms (in at least float32), queries, keys, values (prefixes as long
    as suffixes), what attention made of them, and inputs of the MLP's activation and product.
    """
    config = lm.model.config.get_text_config()
    size = lm.dtype.itemsize
    width, heads, num_layers = (
        int(getattr(config, name))
        for name in ("hidden_size", "num_attention_heads", "num_hidden_layers")
    )
    head_width = int(getattr(config, "head_dim", None) or width // heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    experts = int(getattr(config, "num_experts_per_tok", None) or 1)
    sizes = [getattr(config, f"{kind}intermediate_size", None) for kind in ("moe_", "")]
    inner = next((int(size) for size in sizes if size), 4 * width)
    norms = 4 * width * max(size, 4)
    attention = (2 * heads + 4 * kv_heads) * head_width * size
    mlp = 2 * inner * experts * size
    layer = norms + attention + mlp
    if checkpointing:
        return num_tokens * (num_layers * width * size + layer)
    return num_tokens * num_layers * layer


def free_bytes(device: torch.device) -> int | None:
    """Memory that can still be had: within torch's share of a GPU, or of the machine's RAM.

    None where there is no telling.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        allocated = torch.cuda.memory_allocated(device)
        cached = torch.cuda.memory_reserved(device) - allocated
        share = torch.cuda.get_per_process_memory_fraction(device) * total - allocated
        return max(0, int(min(free + cached, share)))
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return int(kilobytes) * 1024
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
