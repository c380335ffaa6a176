"""Continuations of many prompts in a fresh process: tokens a second, prompts and all.

python -m benchmarks.harness.continuations SIDE --json '{"num_sequences": 48}'   fields of BatchCase
"""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.baselines.llama_cpp import LlamaBatch, float32_gguf
from benchmarks.harness.machine import device_name
from benchmarks.harness.measure import arguments_of, in_fresh_process
from greater_fast.engine import RolloutRequest
from greater_fast.model.lm import load_lm
from greater_fast.model.smollm2 import SMOLLM2, smollm2_gguf
from greater_fast.rollouts.batch import RolloutEngine

NUM_RUNS = 3
POOL_BYTES = 1 << 29
Prompts = list[list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCase:
    """Prompts of random ids, no two alike, and how many tokens follow each; none ends."""

    num_sequences: int = 24
    prompt_tokens: int = 60
    new_tokens: int = 64
    num_ids: int = 49152
    num_threads: int = 2

    def prompts(self, run: int) -> Prompts:
        """The prompts of a run: no prefix is known from the run before."""
        shape = self.num_sequences, self.prompt_tokens
        prompts: Prompts = np.random.default_rng(run).integers(100, self.num_ids, shape).tolist()
        return prompts


@dataclass(frozen=True, slots=True)
class Continuations:
    """The fastest of some runs: its seconds, and what the first run wrote."""

    seconds: float
    texts: list[list[int]]
    device: str


def ours(case: BatchCase, _: Path) -> Callable[[Prompts], list[tuple[int, ...]]]:
    """The paged engine."""
    engine = RolloutEngine(load_lm(SMOLLM2, device="cpu"), kv_cache_bytes=POOL_BYTES)
    nothing: frozenset[int] = frozenset()

    def run(prompts: Prompts) -> list[tuple[int, ...]]:
        requests = [RolloutRequest(tuple(ids), case.new_tokens, nothing) for ids in prompts]
        return [rollout.reasoning_ids for rollout in engine.run(requests) if rollout]

    return run


def llama_cpp(case: BatchCase, folder: Path) -> Callable[[Prompts], list[tuple[int, ...]]]:
    """llama.cpp's batched decode of the same weights."""
    model = float32_gguf(smollm2_gguf(), folder)
    batch = LlamaBatch(model, case.num_sequences, case.num_threads)
    return lambda prompts: batch.generate(prompts, case.new_tokens)


SIDES = {"ours": ours, "llama_cpp": llama_cpp}


def run_here(side: str, case: BatchCase) -> Continuations:
    """Measure a side in this process."""
    torch.set_num_threads(case.num_threads)
    seconds, texts = [], []
    with tempfile.TemporaryDirectory() as folder:
        generate = SIDES[side](case, Path(folder))
        for run in range(NUM_RUNS):
            prompts = case.prompts(run)
            start = time.perf_counter()
            texts.append(generate(prompts))
            seconds.append(time.perf_counter() - start)
    return Continuations(
        min(seconds), [list(t) for t in texts[0]], device_name(torch.device("cpu"))
    )


def measure_continuations(side: str, case: BatchCase) -> Continuations:
    """Measure a side in a fresh process."""
    return Continuations(**in_fresh_process("benchmarks.harness.continuations", side, case))


if __name__ == "__main__":
    asked, fields_asked = arguments_of("benchmarks.harness.continuations", SIDES)
    print(json.dumps(asdict(run_here(asked, BatchCase(**fields_asked)))))
