"""The gradient over reasoning beside the reference procedure's, and the reasoning's beside it."""

from dataclasses import asdict, dataclass, replace

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn.functional import cosine_similarity

from benchmarks.harness.clock import CLOCK
from benchmarks.harness.figure import Figure
from benchmarks.harness.gradients import GradientCase, GradientFigures, measure_gradients
from benchmarks.harness.measure import StepCase, load_inputs
from greater_fast.rollouts.choose import make_engine
from greater_fast.search import optimizer

SECONDS, MEMORY = 4.5, 5.0  # times less, asked for
COSINE = 0.99999


@dataclass(frozen=True, slots=True)
class Sides:
    """Both sides, measured on the same reasonings and found equal."""

    case: GradientCase
    reference: GradientFigures
    ours: GradientFigures
    cosines: list[float]


@pytest.fixture(scope="module")
def gradient_case(case: StepCase) -> GradientCase:
    """The incumbent's own reasonings, and the first, the middle and the last place."""
    inputs = load_inputs(case)
    engine, _ = make_engine(inputs.lm, inputs.config)
    incumbent = optimizer.start(engine, inputs.layouts, inputs.config).incumbent
    return GradientCase(
        **asdict(case),
        reasonings=[list(rollout.reasoning_ids) for rollout in incumbent.rollouts],
        places=[0, len(incumbent.prompt_ids) // 2, -1],
    )


@pytest.fixture(scope="module")
def sides(gradient_case: GradientCase) -> Sides:
    """Both sides; the same scores of the vocabulary but for rounding, and the same shortlist."""
    reference = measure_gradients("reference", gradient_case)
    ours = measure_gradients("ours", gradient_case)
    pairs = zip(ours.scores, reference.scores, strict=True)
    cosines = [cosine(torch.tensor(own), torch.tensor(theirs)) for own, theirs in pairs]
    assert min(cosines) >= COSINE
    assert ours.shortlists == reference.shortlists
    return Sides(gradient_case, reference, ours, cosines)


@pytest.mark.benchmark(timer=CLOCK)
def test_seconds(benchmark: BenchmarkFixture, sides: Sides, smoke: bool) -> None:
    """Mean seconds over the places."""
    record(benchmark, sides, sides.reference.seconds / sides.ours.seconds, SECONDS, smoke)


@pytest.mark.benchmark(timer=CLOCK)
def test_memory(benchmark: BenchmarkFixture, sides: Sides, smoke: bool) -> None:
    """Peak memory above that after loading, in micro-batches of at most 1,024 tokens."""
    ratio = sides.reference.peak_memory_bytes / sides.ours.peak_memory_bytes
    record(benchmark, sides, ratio, MEMORY, smoke)


@pytest.mark.benchmark(timer=CLOCK)
def test_places(benchmark: BenchmarkFixture, gradient_case: GradientCase, smoke: bool) -> None:
    """Seconds from the first place to the last: the suffix is all that is computed."""
    case = replace(gradient_case, places=[0, 4, 8, 12, -1])
    ours: GradientFigures = benchmark.pedantic(  # type: ignore[no-untyped-call]
        CLOCK.run, args=(measure_gradients, "ours", case), rounds=1, iterations=1
    )
    Figure(
        ratio=ours.seconds_by_place[0] / ours.seconds_by_place[-1],
        target=None,
        work={"case": described(case, smoke), "ours": costs(ours)},
        device=ours.device,
    ).record(benchmark, smoke)


@pytest.mark.benchmark(timer=CLOCK)
def test_reasonings(benchmark: BenchmarkFixture, gradient_case: GradientCase, smoke: bool) -> None:
    """Times that the reasoning's gradient takes the seconds of the answer's; bytes beside it."""
    ours = measure_gradients("ours", gradient_case)
    theirs: GradientFigures = benchmark.pedantic(  # type: ignore[no-untyped-call]
        CLOCK.run, args=(measure_gradients, "reasonings", gradient_case), rounds=1, iterations=1
    )
    apart = measure_gradients("reasonings_apart", gradient_case)
    pairs = zip(theirs.scores, apart.scores, strict=True)
    cosines = [cosine(torch.tensor(own), torch.tensor(one)) for own, one in pairs]
    assert min(cosines) >= COSINE
    Figure(
        ratio=theirs.seconds / ours.seconds,
        target=None,
        work={
            "case": described(gradient_case, smoke),
            "cosines": cosines,
            "baseline": costs(ours),
            "ours": costs(theirs),
        },
        device=theirs.device,
    ).record(benchmark, smoke)


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    """The cosine of two vectors, in float64."""
    return float(cosine_similarity(one.double(), other.double(), dim=0))


def record(
    benchmark: BenchmarkFixture, sides: Sides, ratio: float, target: float, smoke: bool
) -> None:
    """Store a figure of both sides."""
    benchmark.pedantic(CLOCK.run, args=(lambda: sides.ours,), rounds=1, iterations=1)  # type: ignore[no-untyped-call]
    Figure(
        ratio=ratio,
        target=target,
        work={
            "case": described(sides.case, smoke),
            "cosines": sides.cosines,
            "baseline": costs(sides.reference),
            "ours": costs(sides.ours),
        },
        device=sides.ours.device,
    ).record(benchmark, smoke)


def described(case: GradientCase, smoke: bool) -> dict[str, object]:
    """The case, with the number of tokens of its reasonings in place of their ids."""
    return case.described(smoke) | {"reasonings": [len(ids) for ids in case.reasonings]}


def costs(figures: GradientFigures) -> dict[str, object]:
    """What a side cost."""
    return {
        "places": figures.places,
        "seconds": figures.seconds,
        "seconds_by_place": figures.seconds_by_place,
        "peak_memory_bytes": figures.peak_memory_bytes,
    }
