"""Attention over a packed row, and its gradient, beside torch one segment after another."""

from dataclasses import replace

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness.clock import CLOCK
from benchmarks.harness.op_figure import record_op
from benchmarks.harness.ops import full_case, small_case


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_packed_attention(benchmark: BenchmarkFixture, smoke: bool, backward: bool) -> None:
    """The same values; then seconds, beside the operations and bytes of one layer."""
    case = (small_case if smoke else full_case)("packed_attention")
    record_op(benchmark, replace(case, backward=backward), smoke)
