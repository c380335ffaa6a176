"""The selection workload: the continuous batch beside other ways to the same rollouts."""

from dataclasses import asdict

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.bench_step import TOLERANCE
from benchmarks.harness.clock import CLOCK
from benchmarks.harness.figure import Figure
from benchmarks.harness.measure import StepCase
from benchmarks.harness.prompt_tokens import count_prompt_tokens
from benchmarks.harness.rollouts import SelectionFigures, measure_selection

# Ratios asked for, and the share of reasonings that near-ties may turn.
TARGETS = {"reference": 6.0, "generate": 2.5, "generate_batch": 6.0}
PARTED_AT_MOST = 0.1
FORWARD_STEPS_AT_MOST = 0.5  # a generated token, with drafts


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("baseline", TARGETS)
def test_selection(benchmark: BenchmarkFixture, case: StepCase, smoke: bool, baseline: str) -> None:
    """Same reasonings but for near-ties, same objectives; then seconds."""
    other = measure_selection(baseline, case)
    ours: SelectionFigures = benchmark.pedantic(  # type: ignore[no-untyped-call]
        CLOCK.run, args=(measure_selection, "paged", case), rounds=1, iterations=1
    )
    near_ties = check_same_rollouts(ours, other)
    Figure(
        ratio=other.seconds / ours.seconds,
        target=TARGETS[baseline],
        work={
            "case": case.described(smoke),
            "near_ties": near_ties,
            "baseline": costs(other),
            "ours": costs(ours),
        },
        device=ours.device,
    ).record(benchmark, smoke)


@pytest.mark.benchmark(timer=CLOCK)
def test_drafts(benchmark: BenchmarkFixture, case: StepCase, smoke: bool) -> None:
    """Exactly the same rollouts in half the steps; on a CPU, where drafts are off, no faster."""
    plain = measure_selection("paged", case)
    ours: SelectionFigures = benchmark.pedantic(  # type: ignore[no-untyped-call]
        CLOCK.run, args=(measure_selection, "paged+drafts", case), rounds=1, iterations=1
    )
    assert check_same_rollouts(ours, plain) == 0
    drafted = costs(ours) | costs_a_token(ours)
    Figure(
        ratio=plain.seconds / ours.seconds,
        target=None,
        work={
            "case": case.described(smoke),
            "baseline": costs(plain) | costs_a_token(plain),
            "ours": drafted,
        },
        device=ours.device,
    ).record(benchmark, smoke)
    if not smoke:
        assert drafted["forward_steps_a_token"] <= FORWARD_STEPS_AT_MOST


@pytest.mark.benchmark(timer=CLOCK)
def test_prefill_tokens(benchmark: BenchmarkFixture, case: StepCase, smoke: bool) -> None:
    """Prompt tokens of a whole step, with shared prefixes and without: counted, not timed."""
    without = count_prompt_tokens("unshared", case)
    ours = benchmark.pedantic(  # type: ignore[no-untyped-call]
        CLOCK.run, args=(count_prompt_tokens, "shared", case), rounds=1, iterations=1
    )
    assert ours.winner_ids == without.winner_ids
    assert without.computed_tokens == without.prompt_tokens
    Figure(
        ratio=without.computed_tokens / ours.computed_tokens,
        target=None,
        work={
            "case": case.described(smoke),
            "baseline": asdict(without),
            "ours": asdict(ours),
        },
        device=ours.device,
    ).record(benchmark, smoke)


def check_same_rollouts(ours: SelectionFigures, other: SelectionFigures) -> int:
    """Assert that two sides say the same, and count reasonings that near-ties turned."""
    pairs = zip(ours.scores.reasonings, other.scores.reasonings, strict=True)
    parted = sum(own != theirs for own, theirs in pairs)
    assert parted <= PARTED_AT_MOST * len(ours.scores.reasonings)
    if parted == 0:
        assert ours.scores.objectives == pytest.approx(other.scores.objectives, rel=TOLERANCE)
    return parted


def costs(figures: SelectionFigures) -> dict[str, float]:
    """What a side cost."""
    return {
        **figures.scores.work,
        "seconds": figures.seconds,
        "generated_tokens": figures.generated_tokens,
        "tokens_per_second": figures.generated_tokens / figures.seconds,
        "peak_memory_bytes": figures.peak_memory_bytes,
    }


def costs_a_token(figures: SelectionFigures) -> dict[str, float]:
    """What a generated token cost: steps of its own sequence, rows of the batch, milliseconds."""
    work, tokens = figures.scores.work, figures.generated_tokens
    return {
        "forward_steps_a_token": 1 - work["accepted_tokens"] / tokens,
        "rows_a_token": work["computed_tokens"] / tokens,
        "ms_a_token": 1e3 * figures.seconds / tokens,
    }
