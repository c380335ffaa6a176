"""How long what a run has still to do will take, by what it has taken so far."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from greater_fast.config import Config
from greater_fast.examples.layout import Layouts
from greater_fast.runs.timing.estimate import Estimate, Finals, savings
from greater_fast.runs.timing.work import gradients_of_a_row, num_finalists, samples_of_a_row
from greater_fast.search.answer import measures_answers
from greater_fast.search.nouns import Scored, Step
from greater_fast.search.state import LoopState

_RECENT = 10  # steps: one to come is like these


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows that go through the model side by side; tokens of one on average, read and written."""

    num_rows: float
    read: float
    written: float

    def more_than(self, other: _Rows) -> float:
        """How many times the work of others it is, and once at least.

        Fewer rows, or shorter ones, may take as long: a step of the model reads all weights
        whatever it is for. Of reading and writing, that counts of which there is more.
        """
        longer = max(self.read / other.read, self.written / max(other.written, 1.0))
        return max(1.0, self.num_rows / other.num_rows) * max(1.0, longer)


class Pace:
    """What a run has measured of itself, in seconds, and what follows for the rest of it."""

    def __init__(self, layouts: Mapping[str, Layouts], config: Config) -> None:
        self._layouts, self._config = layouts, config
        # Then the search has evaluated the training rows.
        self._measures = measures_answers(layouts["train"], config)
        self._measured: tuple[_Rows, float] | None = None  # the last rows that were measured
        self._score_seconds, self._reasoning_lens = 0.0, tuple[int, ...]()
        self._steps: deque[tuple[Step, float]] = deque(maxlen=_RECENT)

    def add_score(self, initial: Scored, seconds: float) -> None:
        """The initial prompt was scored on the training rows."""
        self._score_seconds = seconds
        self._reasoning_lens = tuple(len(r.reasoning_ids) for r in initial.rollouts)
        num_answer_tokens = None if self._measures else 0
        self._measured = self._rows("train", initial, num_answer_tokens), seconds

    def go_on(self, initial: Scored, steps: Sequence[Step], seconds: float) -> None:
        """The initial prompt was scored, and steps were done, before the run was interrupted."""
        self.add_score(initial, seconds)
        for step in steps[-_RECENT:]:
            self.add_step(step, sum(step.seconds.values()))

    @property
    def score_seconds(self) -> float:
        """Seconds that the initial prompt's score took."""
        return self._score_seconds

    def add_step(self, step: Step, seconds: float) -> None:
        """A step was done; with whatever was done about it, it took so many seconds."""
        self._steps.append((step, seconds))

    def add_evaluation(self, split: str, prompt: Scored, seconds: float) -> None:
        """A prompt was evaluated on the rows of a set."""
        self._measured = self._rows(split, prompt), seconds

    def evaluation(self, split: str, *prompts: Scored, share: float = 1.0) -> float:
        """Seconds of the evaluations of some prompts on the rows of a set; 0 where it has none.

        With a `share`, on that part of the rows.
        """
        if split not in self._layouts or not share:
            return 0.0
        assert self._measured is not None  # a run begins with a score
        rows, seconds = self._measured
        asked = [self._rows(split, prompt) for prompt in prompts]
        parts = [replace(own, num_rows=share * own.num_rows) for own in asked]
        return seconds * sum(own.more_than(rows) for own in parts)

    def finals(self, state: LoopState, num_steps: int) -> Finals:
        """Finals and test, if so many steps come before them."""
        prompts = state.best(self._config.num_finalists, self._config)
        num_scored = len(state.scored) + num_steps * self._config.shortlist_size
        return Finals(
            num_finalists=num_finalists(num_scored, self._config),
            dev=self.evaluation("dev", *prompts) / len(prompts),
            train=0.0 if self._measures else self.evaluation("train", *prompts) / len(prompts),
            num_tests=min(2, num_scored),
            test=self.evaluation("test", *prompts) / len(prompts),
        )

    def next_step(self) -> float:
        """Seconds of the next step: of the longest of the last ones; before any, a guess."""
        if not self._steps:
            return sum(self._guessed_step().values())
        return max(seconds for _, seconds in self._steps)

    def estimate(self, state: LoopState, num_steps: int) -> Estimate:
        """All that is to come, if it is so many steps and what follows them."""
        finals = self.finals(state, num_steps)
        estimate = Estimate(num_steps, self._mean_step(), len(self._steps), finals)
        used = replace(self._config, num_train=len(self._layouts["train"]))  # perhaps of fewer rows
        return replace(estimate, less=savings(estimate, used, self._reasoning_lens))

    def _guessed_step(self) -> dict[str, float]:
        """Seconds of a step, by stage, before there was one: each row's gradient as its rollout."""
        num_gradients = gradients_of_a_row(self._config) + samples_of_a_row(self._config)
        return {
            "gradient": num_gradients * self._score_seconds,
            "select": self._config.shortlist_size * self._score_seconds,
        }

    def _mean_step(self) -> dict[str, float]:
        """Seconds of a step, by stage; the first of several, which makes things ready, aside."""
        if not self._steps:
            return self._guessed_step()
        steps = list(self._steps)[1 if len(self._steps) > 1 else 0 :]
        stages = steps[0][0].seconds
        mean = {stage: fmean(step.seconds[stage] for step, _ in steps) for stage in stages}
        return {**mean, "else": fmean(s for _, s in steps) - sum(mean.values())}

    def _rows(self, split: str, prompt: Scored, num_answer_tokens: int | None = None) -> _Rows:
        """The rows of a set, with a prompt whose reasoning is as long as on the training rows."""
        layouts = self._layouts[split]
        if num_answer_tokens is None:
            num_answer_tokens = layouts.answer_limit
        around = fmean(len(row.head_ids) + len(row.tail_ids) for row in layouts.rows)
        reasoning = fmean(len(rollout.reasoning_ids) for rollout in prompt.rollouts)
        return _Rows(
            len(layouts),
            read=around + len(prompt.prompt_ids),
            written=reasoning + num_answer_tokens,
        )
