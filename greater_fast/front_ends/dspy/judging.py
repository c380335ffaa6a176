"""What prompts are worth in the program itself, by the user's metric."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy

from greater_fast.front_ends.dspy.sending import Target

_UNREAD = object()  # a prediction, where the adapter could not read the reply


@dataclass
class ProgramJudge:
    """Scores prompts in the program, in percent, as `dspy.Evaluate` does.

    A reply that the adapter cannot read is scored 0, and counted; any other error of the program or
    the metric comes to the caller, once all rows have been run. No prompt is scored twice.
    """

    target: Target
    rows: list[Any]
    metric: Callable[..., Any]
    num_threads: int | None
    num_unread: dict[str, int] = field(default_factory=dict)
    _scores: dict[str, float] = field(default_factory=dict)

    def __call__(self, prompts: Sequence[str]) -> list[float]:
        """What each prompt is worth; whatever else program or metric raise is raised."""
        for prompt in prompts:
            if prompt not in self._scores:
                self._scores[prompt] = self._score(prompt)
        return [self._scores[prompt] for prompt in prompts]

    def _score(self, prompt: str) -> float:
        watch = _Watch(self.target.with_prompt(prompt), self.metric)
        evaluate = dspy.Evaluate(
            devset=self.rows,
            metric=watch.metric,
            num_threads=self.num_threads,
            max_errors=len(self.rows) + 1,
        )
        score = float(evaluate(watch.program).score)
        if watch.error is not None:
            raise watch.error
        self.num_unread[prompt] = watch.num_unread
        return score


def _worth(value: Any) -> Any:
    """What a metric gave, where it can be summed."""
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise ValueError(f"metric: got {value!r} of a row, expected True, False or a number")
    return value


class _Watch:
    """A program and a metric, with the number of replies not read, and the first other error.

    What is not read is no error to `dspy.Evaluate`, which would log each with its whole row.
    """

    def __init__(self, program: Callable[..., Any], metric: Callable[..., Any]) -> None:
        self._program, self._metric = program, metric
        self.num_unread = 0
        self.error: Exception | None = None
        self._lock = threading.Lock()

    def program(self, **inputs: Any) -> Any:
        """The prediction, or `_UNREAD`."""
        return self._watched(lambda: self._program(**inputs), _UNREAD)

    def metric(self, example: Any, prediction: Any) -> Any:
        """What the prediction is worth; nothing where it, or what the metric asks, is not read."""
        if prediction is _UNREAD:
            return 0.0
        return self._watched(lambda: _worth(self._metric(example, prediction)), 0.0)

    def _watched(self, call: Callable[[], Any], unread: Any) -> Any:
        try:
            return call()
        except dspy.AdapterParseError:
            with self._lock:
                self.num_unread += 1
            return unread
        except Exception as error:
            self.error = self.error or error
            raise
