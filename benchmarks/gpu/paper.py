"""A step of the method on paper: a model's and a card's figures in, milliseconds by stage out.

    python -m benchmarks.gpu.paper
    python -m benchmarks.gpu.paper --new-tokens 512 --rows 100

Nothing here was measured on a GPU: rates are what is usually reached, launches are counted on a
CPU, steps are those of the C++ scheduler with random tokens. Good to some 20%; what run_gpu.sh
finds is to be laid beside it.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.gpu.cards import MODELS, shapes_of
from benchmarks.gpu.model import GIB
from greater_fast.config import Config
from greater_fast.memory.budget import RowLengths
from greater_fast.memory.plan import plan_memory
from greater_fast.model.cpu.extension import Scheduler
from greater_fast.model.kv_cache import BLOCK_SIZE
from greater_fast.rollouts.steps.step_buffers import StepBuffers, step_shapes
from greater_fast.rollouts.steps.step_size import SIZES, best_size

# Of a decoder layer of Llama's form beside its four products and the attention; tests count them:
# add and norm twice, q·k·v turned and stored, the gate.
LAUNCHES = 4
OTHER_LAUNCHES = 10  # of a step: embedding, last norm, rotary turns, what is read of the head
_GRADIENT_LAUNCHES = 3 * LAUNCHES  # of a layer there and back
_GAP = 2.75e-6  # seconds of a small kernel in a graph, with the gap before it
_HOST_SECONDS = 2e-4  # of a step: waiting, commit, plan, launch
_PRODUCTS = 0.9  # of the rate, for products of many rows
_ATTENTION = 0.87  # of the rate of reading, for keys and values by block tables
# Bytes a token and layer that small kernels move, in states of the model's width, there and back.
_STATES_MOVED = 45


@dataclass(frozen=True, slots=True)
class Card:
    """What a GPU usually reaches: bytes and FLOP (bfloat16, dense) a second; its memory."""

    name: str
    bytes_per_second: float
    flops_per_second: float
    gib: int


@dataclass(frozen=True, slots=True)
class Shapes:
    """Of a model in 16 bits: numbers that a token is multiplied by, of the head; and widths."""

    layer_weights: int
    head_weights: int
    num_layers: int
    width: int
    kv_token_bytes: int

    @property
    def step_bytes(self) -> int:
        """Weights that a step reads."""
        return 2 * (self.layer_weights + self.head_weights)


@dataclass(frozen=True, slots=True)
class Search:
    """Rows and lengths of a step, and the K/V pool."""

    pool_bytes: int
    num_rows: int = 50
    shortlist: int = 3
    head_tokens: int = 150
    prompt_tokens: int = 20
    new_tokens: int = 256
    target_tokens: int = 8
    gradient_batch: int = 4096
    is_recomputed: bool = False  # layers go forward twice


H100 = Card("H100 80 GB", 2.95e12, 650e12, 80)
RTX_4090 = Card("RTX 4090 24 GB", 0.93e12, 140e12, 24)
LLAMA_3_8B = Shapes(6_979_321_856, 128_256 * 4096, 32, 4096, 131_072)


def step_seconds(card: Card, shapes: Shapes, search: Search, num_tokens: int) -> dict[str, float]:
    """Of a step of so many slots, part by part; attention is that of all sequences at a time."""

    def product(weights: int) -> float:
        """Reading and multiplying overlap in part: the root of the sum of their squares."""
        read = 2 * weights / card.bytes_per_second
        multiplied = 2 * weights * num_tokens / card.flops_per_second
        return math.hypot(read, multiplied)

    length = search.head_tokens + search.prompt_tokens + search.new_tokens // 2
    at_once = min(
        search.num_rows * search.shortlist,
        num_tokens,
        search.pool_bytes // (length * shapes.kv_token_bytes),
    )
    kv_bytes = at_once * length * shapes.kv_token_bytes
    return {
        "products of the layers": product(shapes.layer_weights),
        "small kernels": _GAP * (LAUNCHES * shapes.num_layers + OTHER_LAUNCHES),
        "LM head, read fused": product(shapes.head_weights),
        "attention": kv_bytes / card.bytes_per_second / _ATTENTION,
        "host": _HOST_SECONDS,
    }


def count_steps(search: Search, shapes: Shapes, num_tokens: int) -> dict[str, int]:
    """What the scheduler does with the shortlist's rollouts of random tokens, heads stored."""
    words = np.random.default_rng(0).integers(1, 1 << 15, (search.num_rows, search.head_tokens))
    longest = search.head_tokens + search.prompt_tokens + search.new_tokens + search.target_tokens
    table_width = -(-longest // BLOCK_SIZE)
    buffers = StepBuffers(step_shapes(num_tokens, table_width), torch.device("cpu")).host
    block_bytes = BLOCK_SIZE * shapes.kv_token_bytes
    scheduler = Scheduler(
        buffers,
        num_blocks=1 + search.pool_bytes // block_bytes,
        block_size=BLOCK_SIZE,
        table_width=table_width,
        max_tokens=num_tokens,
        fixed_tokens=True,
        max_sequences=num_tokens,
        draft_tokens=0,
    )
    source = np.random.default_rng(1)

    def run() -> None:
        while not scheduler.idle:
            rows = scheduler.plan()[2]
            drawn = source.integers(1, 1 << 15, rows).astype(np.int32)
            scheduler.commit(drawn, np.zeros(rows, np.float32))
        scheduler.take_finished()

    for key, head in enumerate(words.tolist()):
        scheduler.submit(key=key, prompt_ids=head, max_new_tokens=1)
    run()
    before = scheduler.statistics()
    for candidate in range(search.shortlist):
        prompt = [candidate + 1] * search.prompt_tokens
        for row, head in enumerate(words.tolist()):
            scheduler.submit(
                key=candidate * search.num_rows + row,
                group=candidate,
                prompt_ids=[*head, *prompt],
                target_ids=[1] * search.target_tokens,
                num_scored=search.target_tokens // 2,
                max_new_tokens=search.new_tokens,
            )
    run()
    after = scheduler.statistics()
    return {name: after[name] - before[name] for name in ("steps", "preemptions")}


def gradient_seconds(card: Card, shapes: Shapes, search: Search) -> dict[str, float]:
    """Of the pass over all rows from the middle of the prompt on, part by part."""
    suffix = search.prompt_tokens // 2 + search.new_tokens + search.target_tokens
    num_tokens = search.num_rows * suffix
    batches = math.ceil(num_tokens / max(search.gradient_batch, suffix))
    before = search.head_tokens + search.prompt_tokens // 2
    pairs = search.num_rows * suffix * (before + suffix / 2)
    # Scores and values there, and five products as large on the way back.
    attention = (2 + 5) * 2 * pairs * shapes.width * shapes.num_layers
    moved = num_tokens * _STATES_MOVED * 2 * shapes.width * shapes.num_layers
    launches = batches * shapes.num_layers * _GRADIENT_LAUNCHES * _GAP
    products = (6 if search.is_recomputed else 4) * shapes.layer_weights * num_tokens
    return {
        "products": products / card.flops_per_second / _PRODUCTS,
        "attention": attention / card.flops_per_second / 0.4,
        "small kernels": moved / card.bytes_per_second + launches,
        "host": batches * 2e-3,
    }


def describe(card: Card, shapes: Shapes, search: Search) -> str:
    """The step, part by part, in lines."""
    sizes = {size: 1e3 * sum(step_seconds(card, shapes, search, size).values()) for size in SIZES}
    chosen = best_size(sizes, search.num_rows * search.shortlist)
    step = step_seconds(card, shapes, search, chosen)
    counts = count_steps(search, shapes, chosen)
    gradient = gradient_seconds(card, shapes, search)
    stages = {
        "propose": 2 * sum(step.values()) + 0.02,
        "gradient": sum(gradient.values()),
        "score": 2 * shapes.head_weights / card.bytes_per_second + 5e-3,
        "select": counts["steps"] * sum(step.values()),
    }
    floors = {
        "gradient": 4
        * shapes.layer_weights
        * search.num_rows
        * (search.prompt_tokens // 2 + search.new_tokens + search.target_tokens)
        / card.flops_per_second,
        "select": search.new_tokens
        * (shapes.step_bytes / card.bytes_per_second + step["attention"] * _ATTENTION),
    }
    lines = [
        f"{card.name}, pool {search.pool_bytes / GIB:.1f} GiB, {chosen} tokens a step"
        + (", layers computed twice for the gradient:" if search.is_recomputed else ":"),
        *(f"  a step: {name:<24} {1e3 * s:6.2f} ms" for name, s in step.items()),
        f"  a step: {'sum':<24} {1e3 * sum(step.values()):6.2f} ms, {counts['steps']} steps, "
        f"{counts['preemptions']} preemptions",
        *(f"  gradient: {name:<22} {s:6.2f} s" for name, s in gradient.items()),
        *(
            f"  {name:<9} {s:5.2f} s" + (f" (floor {floors[name]:.2f} s)" if name in floors else "")
            for name, s in stages.items()
        ),
        f"  {'sum':<9} {sum(stages.values()):5.2f} s",
    ]
    return "\n".join(lines)


def planned_search(card: Card, search: Search) -> Search:
    """The search with the pool and the micro-batches that the plan of memory has on a card."""
    longest = search.head_tokens + search.prompt_tokens + search.new_tokens + search.target_tokens
    lengths = RowLengths(search.num_rows, search.num_rows, mean=longest, longest=longest)
    config = Config(max_new_tokens=search.new_tokens)
    plan = plan_memory(shapes_of(MODELS["Llama 3 8B"]), lengths, config, card.gib * GIB)
    assert plan.fits
    assert plan.pool_bytes is not None
    return replace(
        search,
        pool_bytes=plan.pool_bytes,
        gradient_batch=plan.gradient_tokens,
        is_recomputed=plan.checkpointing,
    )


def main(arguments: list[str] | None = None) -> None:
    """The command line: an 8B model on an H100, under 24 GiB of it, and on a 24 GB card."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.paper")
    usual = Search(pool_bytes=0)
    parser.add_argument("--rows", type=int, default=usual.num_rows)
    parser.add_argument("--new-tokens", type=int, default=usual.new_tokens, help="of a reasoning")
    asked = parser.parse_args(arguments)
    search = replace(usual, num_rows=asked.rows, new_tokens=asked.new_tokens)
    for card in (H100, replace(H100, name="H100 under 24 GiB", gib=24), RTX_4090):
        print(describe(card, LLAMA_3_8B, planned_search(card, search)))


if __name__ == "__main__":
    main()
