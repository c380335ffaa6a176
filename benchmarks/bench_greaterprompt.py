"""What a program for GreaterPrompt gains by importing our front end: the cost of a round.

The two rounds are not the same work. GreaterPrompt generates a reasoning a row and takes a token
that it has not tried; ours tries three prompts, with fresh reasonings on all rows. What both
compute is compared: the reasonings of the prompt that the round begins with, and the loss after
them.
"""

from dataclasses import replace
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.bench_step import NEAR_TIE, TOLERANCE, gap_where_parted
from benchmarks.harness.clock import CLOCK
from benchmarks.harness.figure import Figure
from benchmarks.harness.greaterprompt import (
    RoundFigures,
    lay_out_round,
    loss_after,
    measure_round,
)
from benchmarks.harness.measure import StepCase

COMPUTED = ("reasonings", "loss")  # the rest of the figures are costs


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("num_rows", [5, 16])
def test_round(benchmark: BenchmarkFixture, case: StepCase, smoke: bool, num_rows: int) -> None:
    """A round on as many rows as GreaterPrompt's example files have, and on more."""
    case = replace(case, task="boolean_expressions", num_rows=3 if smoke else num_rows)
    theirs = measure_round("theirs", case)
    ours: RoundFigures = benchmark.pedantic(  # type: ignore[no-untyped-call]
        CLOCK.run, args=(measure_round, "ours", case), rounds=1, iterations=1
    )
    near_ties = check_same_beginning(case, theirs, ours)
    Figure(
        ratio=theirs.seconds / ours.seconds,
        target=None,
        work={
            "case": case.described(smoke),
            "near_ties": near_ties,
            "baseline": costs(theirs),
            "ours": costs(ours),
        },
        device=ours.device,
    ).record(benchmark, smoke)


def costs(measured: RoundFigures) -> dict[str, Any]:
    """What a round cost, without what it computed."""
    names = RoundFigures.__dataclass_fields__
    return {name: getattr(measured, name) for name in names if name not in COMPUTED}


def check_same_beginning(case: StepCase, theirs: RoundFigures, ours: RoundFigures) -> int:
    """Assert that both read the prompt alike, and count rows whose reasoning parts at a near-tie.

    Where some do, the losses are compared behind our reasonings.
    """
    pairs = list(zip(theirs.reasonings, ours.reasonings, strict=True))
    assert len(pairs) == case.num_rows
    parted = [row for row, (other, own) in enumerate(pairs) if other != own]
    expected = theirs.loss
    if parted:
        inputs = lay_out_round(case)
        for row in parted:
            gap = gap_where_parted(inputs, row, *pairs[row])
            assert gap <= NEAR_TIE, f"row {row} parts at a gap of {gap:.2e}"
        expected = loss_after(case, ours.reasonings)
    assert ours.loss == pytest.approx(expected, rel=TOLERANCE)
    return len(parted)
