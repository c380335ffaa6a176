"""The best tokens of the vocabulary for 64 gradients, beside a product and `topk` in torch."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness.clock import CLOCK
from benchmarks.harness.op_figure import record_op
from benchmarks.harness.ops import full_case, small_case


@pytest.mark.benchmark(timer=CLOCK)
def test_vocabulary_top_k(benchmark: BenchmarkFixture, smoke: bool) -> None:
    """The same scores; then peak memory beyond the arguments: ten times less is asked for."""
    case = (small_case if smoke else full_case)("vocabulary_top_k")
    record_op(benchmark, case, smoke, memory_target=10.0)
