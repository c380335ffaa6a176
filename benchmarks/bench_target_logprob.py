"""Log-probabilities of given tokens, and their gradient, beside torch with all logits."""

from dataclasses import replace

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness.clock import CLOCK
from benchmarks.harness.op_figure import record_op
from benchmarks.harness.ops import full_case, small_case


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_target_logprob(benchmark: BenchmarkFixture, smoke: bool, backward: bool) -> None:
    """The same values; then seconds, and peak memory beside them."""
    case = (small_case if smoke else full_case)("target_logprob")
    record_op(benchmark, replace(case, backward=backward), smoke)
