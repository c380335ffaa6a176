"""Work of a step on 1 to 4 ranks: tokens that each computes, and bytes that they exchange.

Counted, not timed: processes on one CPU say nothing of how fast several GPUs are.
"""

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness.figure import Figure
from benchmarks.harness.measure import StepCase
from benchmarks.harness.rank_work import RankWork, count_on


def test_ranks(benchmark: BenchmarkFixture, case: StepCase, smoke: bool) -> None:
    """The step is the same on any number of ranks; the ratio is that of the busiest rank's work."""
    sizes = (1, 2) if smoke else (1, 2, 3, 4)

    def run() -> dict[int, RankWork]:
        return {size: count_on(size, case) for size in sizes}

    found = benchmark.pedantic(run, rounds=1, iterations=1)  # type: ignore[no-untyped-call]
    assert all(work.decided == found[1].decided for work in found.values())
    busiest = {size: _busiest(work) for size, work in found.items()}
    work = {
        str(size): {
            "forward_tokens": work.forward_tokens,
            "gradient_tokens": work.gradient_tokens,
            "exchanged_bytes": work.exchanged_bytes,
        }
        for size, work in found.items()
    }
    figure = Figure(
        ratio=busiest[1] / busiest[sizes[-1]],
        target=None,
        work={"case": case.described(smoke), "ranks": work},
        device="counted",
        floor=float(sizes[-1]),
    )
    figure.record(benchmark, smoke)


def _busiest(work: RankWork) -> int:
    """Passes of a token through the model on the rank that has most of them, two a gradient's."""
    pairs = zip(work.forward_tokens, work.gradient_tokens, strict=True)
    return max(forward + 2 * gradient for forward, gradient in pairs)
