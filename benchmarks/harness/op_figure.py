"""An op beside plain torch: the same result first, then each side in a fresh process."""

from dataclasses import asdict

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness.clock import CLOCK
from benchmarks.harness.figure import Figure
from benchmarks.harness.machine import device_name
from benchmarks.harness.op_sides import OpFigures, check, measure_op
from benchmarks.harness.ops import OpCase, floors

PAGE = 4096  # the least that memory is counted in


def record_op(
    benchmark: BenchmarkFixture, case: OpCase, smoke: bool, memory_target: float | None = None
) -> None:
    """Record seconds, or with a target for it peak memory, of torch over ours.

    The floor is the least number of seconds: the bytes at the rate of a copy, or the products at
    that of a large one.
    """
    error = check(case)
    torch_figures = measure_op("torch", case)
    ours: OpFigures = benchmark.pedantic(  # type: ignore[no-untyped-call]
        CLOCK.run, args=(measure_op, "ours", case), rounds=1, iterations=1
    )
    if memory_target is None:
        ratio = torch_figures.seconds / ours.seconds
    else:
        ratio = torch_figures.peak_memory_bytes / max(ours.peak_memory_bytes, PAGE)
    least = floors(case, smoke)
    Figure(
        ratio=ratio,
        target=memory_target,
        work={
            "case": asdict(case),
            "error": error,
            "flops": case.flops,
            "bytes_read": case.bytes_read,
            "baseline": asdict(torch_figures),
            "ours": asdict(ours) | least.shares(case, ours.seconds),
        },
        device=device_name(case.device),
        floor=max(least.copy, least.product),
    ).record(benchmark, smoke)
