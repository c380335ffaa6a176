"""Decoding of many sequences beside the same model without attention: how near its bare products.

Both engines have all prompts stored, so that a run is nothing but steps in which every sequence
decodes one token; runs of both alternate in one process.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness.clock import CLOCK
from benchmarks.harness.figure import Figure
from benchmarks.harness.machine import PeakMemory, device_name
from greater_fast.engine import RolloutRequest
from greater_fast.model.kv_cache import BLOCK_SIZE, block_bytes
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts import paged
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.plain import PlainRolloutEngine

SHARE = 0.8  # of the tokens a second without attention, asked for
NUM_COMPARED, PARTED_AT_MOST = 8, 1
Texts = list[tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeCase:
    """Sequences that decode side by side: steps, and runs of each side.

    Whole blocks of the prompt are stored, and one token more is asked: no block is copied, and the
    context is 193 to 208 tokens, 200 in the mean.
    """

    num_sequences: int = 150
    num_blocks: int = 12
    num_steps: int = 16
    num_runs: int = 3


@dataclass(frozen=True, slots=True)
class Decoding:
    """Seconds of a run, and what it wrote."""

    seconds: float
    texts: Texts


@pytest.mark.benchmark(timer=CLOCK)
def test_decode(benchmark: BenchmarkFixture, model_source: str, smoke: bool) -> None:
    """Sequences say what they say alone; then tokens a second, and those without attention."""
    case = DecodeCase(num_sequences=5, num_blocks=1, num_steps=2) if smoke else DecodeCase()
    lm = load_lm(model_source)
    memory = PeakMemory(lm.device)
    requests = make_requests(lm, case)
    ours, bare = make_engine(lm, case), make_engine(lm, case)
    texts = run_all(ours, requests)
    near_ties = count_near_ties(lm, requests[:NUM_COMPARED], texts[:NUM_COMPARED])
    with no_attention():
        run_all(bare, requests)

    memory.restart()
    runs, bare_runs = [], []
    for _ in range(case.num_runs):
        runs.append(decode(ours, requests, case))
        with no_attention():
            bare_runs.append(decode(bare, requests, case))
    assert all(run.texts == texts for run in runs)
    best, bare_best = (min(found, key=lambda run: run.seconds) for found in (runs, bare_runs))
    benchmark.pedantic(CLOCK.run, args=(lambda: best,), rounds=1, iterations=1)  # type: ignore[no-untyped-call]

    num_tokens = case.num_sequences * case.num_steps
    Figure(
        ratio=bare_best.seconds / best.seconds,
        target=SHARE,
        work={
            "case": asdict(case),
            "baseline": {"tokens_per_second": num_tokens / bare_best.seconds},
            "ours": {
                "tokens_per_second": num_tokens / best.seconds,
                "peak_memory_bytes": memory.peak_bytes(),
            },
            "seconds": [run.seconds for run in runs],
            "near_ties": near_ties,
        },
        device=device_name(lm.device),
        floor=num_tokens / bare_best.seconds,
    ).record(benchmark, smoke)


def make_requests(lm: LM, case: DecodeCase) -> list[RolloutRequest]:
    """Prompts of random ids, no two alike, that never end by themselves."""
    length = case.num_blocks * BLOCK_SIZE + 1
    ids = np.random.default_rng(0).integers(0, lm.vocab_size, (case.num_sequences, length))
    nothing: frozenset[int] = frozenset()
    return [RolloutRequest(tuple(row), case.num_steps, nothing) for row in ids.tolist()]


def make_engine(lm: LM, case: DecodeCase) -> RolloutEngine:
    """An engine with room for all sequences and, beside them, the blocks that earlier runs left."""
    longest = case.num_blocks + 1 + -(-case.num_steps // BLOCK_SIZE)
    pool = 2 * case.num_sequences * longest * block_bytes(lm)
    return RolloutEngine(lm, kv_cache_bytes=pool)


def run_all(engine: RolloutEngine, requests: list[RolloutRequest]) -> Texts:
    """What all sequences say; their prompts stay stored."""
    return [rollout.reasoning_ids for rollout in engine.run(requests) if rollout]


def decode(engine: RolloutEngine, requests: list[RolloutRequest], case: DecodeCase) -> Decoding:
    """Time the steps of a run, and assert that it is nothing but decoding."""
    before = engine.statistics
    start = time.perf_counter()
    texts = run_all(engine, requests)
    seconds = time.perf_counter() - start
    counts = {name: count - before[name] for name, count in engine.statistics.items()}
    assert counts["steps"] == case.num_steps
    assert counts["computed_tokens"] == case.num_steps * case.num_sequences
    return Decoding(seconds, texts)


def count_near_ties(lm: LM, requests: list[RolloutRequest], texts: Texts) -> int:
    """How many texts differ from those of transformers, one sequence at a time: one at most."""
    alone = [replace(request, end_ids=frozenset({-1})) for request in requests]
    others = PlainRolloutEngine(lm, batch_size=1).run(alone)
    differ = [r is None or r.reasoning_ids != t for r, t in zip(others, texts, strict=True)]
    assert sum(differ) <= PARTED_AT_MOST
    return sum(differ)


@contextmanager
def no_attention() -> Iterator[None]:
    """Within, a layer's attention gives back its queries; the K/V pool is left alone."""

    def give_back(_: Any, queries: torch.Tensor, *__: Any, **___: Any) -> tuple[torch.Tensor, None]:
        return queries.transpose(1, 2).contiguous(), None  # [1, M, H, D]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paged, "_attend", give_back)
        yield
