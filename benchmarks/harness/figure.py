"""How a benchmark records its result."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness.machine import versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One result: how much better than the baseline, what was asked, and what work was done.

    `floor` is the best that the machine could do, in the unit of the benchmark, where it is known.
    """

    ratio: float
    target: float | None
    work: Mapping[str, Any]  # tokens, examples, shapes
    device: str
    floor: float | None = None

    def record(self, benchmark: BenchmarkFixture, smoke: bool) -> None:
        """Store the figure in pytest-benchmark's `extra_info`, and hold it to its target."""
        benchmark.extra_info |= {
            "ratio": self.ratio,
            "target": self.target,
            "work": dict(self.work),
            "device": self.device,
            "versions": versions(),
            "num_threads": None if torch.cuda.is_available() else torch.get_num_threads(),
            "floor": self.floor,
            "smoke": smoke,
        }
        if self.target is not None and not smoke:
            assert self.ratio >= self.target, f"{self.ratio:.2f}x, asked for {self.target}x"
