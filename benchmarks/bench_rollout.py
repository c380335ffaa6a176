"""The selection workload: the continuous batch beside three other ways to the same rollouts."""

from dataclasses import asdict, replace

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.bench_step import CLOCK, TOLERANCE
from benchmarks.figure import Figure
from benchmarks.measure import StepCase
from benchmarks.rollouts import SelectionFigures, measure_selection

# Ratios asked for, and the share of reasonings that near-ties may turn.
TARGETS = {"reference": 6.0, "generate": 2.5, "generate_batch": 6.0}
PARTED_AT_MOST = 0.1


@pytest.fixture
def case(smoke: bool, model_source: str) -> StepCase:
    """16 rows and 96 new tokens, or in smoke mode 3 and 8."""
    full = StepCase(model=model_source, task="object_counting")
    return replace(full, num_rows=3, max_new_tokens=8) if smoke else full


def run(side: str, case: StepCase) -> SelectionFigures:
    """Measure a side, and let the benchmark's clock run for as long as it took."""
    figures = measure_selection(side, case)
    CLOCK.seconds += figures.seconds
    return figures


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("baseline", ["reference", "generate", "paged"])
def test_selection(benchmark: BenchmarkFixture, case: StepCase, smoke: bool, baseline: str) -> None:
    """Same reasonings but for near-ties, same objectives; then seconds."""
    side = "paged+drafts" if baseline == "paged" else "paged"
    other = measure_selection(baseline, case)
    ours: SelectionFigures = benchmark.pedantic(  # type: ignore[no-untyped-call]
        run, args=(side, case), rounds=1, iterations=1
    )
    pairs = zip(ours.scores.reasonings, other.scores.reasonings, strict=True)
    parted = sum(own != theirs for own, theirs in pairs)
    assert parted <= (0 if baseline == "paged" else PARTED_AT_MOST * len(ours.scores.reasonings))
    if parted == 0:
        assert ours.scores.objectives == pytest.approx(other.scores.objectives, rel=TOLERANCE)
    figure = Figure(
        ratio=other.seconds / ours.seconds,
        target=TARGETS.get(baseline),
        work={
            "case": asdict(case) | {"model": "tiny" if smoke else case.model},
            "near_ties": parted,
            baseline: costs(other),
            side: costs(ours),
        },
        device=ours.device,
    )
    figure.record(benchmark, smoke)


def costs(figures: SelectionFigures) -> dict[str, object]:
    """What a side cost."""
    return {
        "seconds": figures.seconds,
        "generated_tokens": figures.generated_tokens,
        "tokens_per_second": figures.generated_tokens / figures.seconds,
        "peak_memory_bytes": figures.peak_memory_bytes,
        **figures.scores.work,
    }
