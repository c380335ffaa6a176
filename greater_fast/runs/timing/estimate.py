"""Seconds that a run has to go, part by part, and which settings would make them fewer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from greater_fast.config import Config

_WORTH_NAMING = 0.05  # of all seconds, that a setting saves


@dataclass(frozen=True, slots=True)
class Finals:
    """What follows the search: seconds of one prompt's evaluation on the rows of each set."""

    num_finalists: int
    dev: float
    train: float
    num_tests: int
    test: float

    @property
    def seconds(self) -> float:
        """All of them."""
        return self.num_finalists * self.dev + self.train + self.num_tests * self.test

    @property
    def least(self) -> float:
        """What is done in any case: two prompts are compared on the other rows."""
        return min(2, self.num_finalists) * self.dev + self.num_tests * self.test

    def within(self, seconds: float) -> float:
        """What they take where they may take so much: fewer prompts are compared, but two."""
        return max(self.least, min(self.seconds, seconds))


@dataclass(frozen=True, slots=True)
class Estimate:
    """Steps and what follows them; `step` has the seconds of a step's stages.

    They are the mean of steps that were measured, `num_measured` with the first, which is left out
    of several; without any they are a guess from the score of the initial prompt. `less` maps
    settings to the seconds that each would save at most.
    """

    num_steps: int
    step: Mapping[str, float]
    num_measured: int
    finals: Finals
    less: Mapping[str, float] = field(default_factory=dict)

    @property
    def step_seconds(self) -> float:
        """Seconds of a step."""
        return sum(self.step.values())

    @property
    def seconds(self) -> float:
        """Seconds of everything: fewer where the search ends before its last step."""
        return self.num_steps * self.step_seconds + self.finals.seconds

    def steps_within(self, seconds: float, for_finals: float) -> int:
        """How many of the steps end within a time, with finals that may take so much of it."""
        room = max(0.0, seconds - self.finals.within(for_finals))
        return min(self.num_steps, int(room / max(self.step_seconds, 1e-9)))

    def describe(self) -> str:
        """The estimate in one line, with what would make it less."""
        if not self.num_measured:
            how = "guessed from the score of the initial prompt"
        elif self.num_measured <= 2:
            how = "as the last one took"
        else:
            how = f"as the last {self.num_measured - 1} took"
        steps = "1 step" if self.num_steps == 1 else f"{self.num_steps} steps"
        behind = "finals and test" if self.finals.test else "finals"
        text = (
            f"about {duration(self.seconds)} at most: {steps} of "
            f"{duration(self.step_seconds)} ({how}), {duration(self.finals.seconds)} for {behind}"
        )
        less = ", ".join(f"{name} (-{duration(seconds)})" for name, seconds in self.less.items())
        return f"{text}; less, at most by so much each, with {less}" if less else text

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "seconds": self.seconds}


def savings(estimate: Estimate, config: Config, reasoning_lens: Sequence[int]) -> dict[str, float]:
    """Lower settings, and the seconds that each would save at most; those that save most first.

    Savings are in proportion to the steps, rows or tokens that are fewer. `reasoning_lens` are the
    tokens of reasoning that the initial prompt led to: a lower limit saves what is behind it.
    """
    finals = estimate.finals
    select = estimate.num_steps * estimate.step.get("select", 0.0)
    on_rows = select + estimate.num_steps * estimate.step.get("gradient", 0.0)
    steps, tokens, finalists = (
        max(1, getattr(config, name) // 2) for name in ("steps", "max_new_tokens", "num_finalists")
    )
    num_train, shortlist = max(2, config.num_train // 2), config.shortlist_size - 1
    fewer_steps = min(estimate.num_steps, config.steps - steps)
    fewer_rows = 1 - num_train / config.num_train
    fewer_tokens = sum(max(0, n - tokens) for n in reasoning_lens) / max(1, sum(reasoning_lens))
    changes = (
        ("steps", steps, fewer_steps * estimate.step_seconds),
        ("num_train", num_train, fewer_rows * (on_rows + finals.train)),
        ("shortlist_size", shortlist, select / config.shortlist_size if shortlist else 0.0),
        ("max_new_tokens", tokens, fewer_tokens * (on_rows + finals.seconds)),
        ("num_finalists", finalists, (finals.num_finalists - finalists - 1) * finals.dev),
    )
    least = _WORTH_NAMING * estimate.seconds
    named = sorted(changes, key=lambda change: -change[2])
    return {f"{name}={value}": seconds for name, value, seconds in named if seconds > least}


def duration(seconds: float) -> str:
    """A time for a reader, to two digits or so."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            number = seconds / size
            return f"{number:.0f} {unit}" if number >= 9.95 else f"{number:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
