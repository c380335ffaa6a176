"""Attention of 150 decoding sequences over block tables, beside torch on a contiguous cache."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness.clock import CLOCK
from benchmarks.harness.op_figure import record_op
from benchmarks.harness.ops import full_case, small_case


@pytest.mark.benchmark(timer=CLOCK)
def test_paged_attention(benchmark: BenchmarkFixture, smoke: bool) -> None:
    """The same result; then seconds."""
    record_op(benchmark, (small_case if smoke else full_case)("paged_attention"), smoke)
