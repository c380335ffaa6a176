"""What of a run is finished, in memory and in its folder, and so is there whatever happens next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from greater_fast.ctrl_c import interrupts_later
from greater_fast.examples.layout import Layouts
from greater_fast.runs.directory import RunDirectory
from greater_fast.runs.evaluation import RowLog, RowRecord
from greater_fast.runs.result import Result
from greater_fast.runs.saved.saved_run import SavedRun
from greater_fast.runs.timing.time_budget import OUT_OF_TIME
from greater_fast.search.nouns import Step
from greater_fast.search.state import LoopState, rollouts_of


class _Finished(NamedTuple):
    """The state after the last finished step, which nothing changes any more, and all steps."""

    state: LoopState
    steps: tuple[Step, ...]


class Journal:
    """The finished part of a run of so many planned steps; `saved` is that of earlier sittings.

    `minutes` are those that the search may end for want of.

    A step that is cut off in its middle may have changed the loop's state: here it has not. One
    whose `on_step` was not heard out is known as such (`unanswered`), in the folder too. The
    `judgement` of finalists is written with the state.
    """

    def __init__(
        self, directory: RunDirectory, num_steps: int, minutes: float | None = None
    ) -> None:
        self._directory, self._num_planned, self._minutes = directory, num_steps, minutes
        self.saved = directory.saved or SavedRun({}, [])
        self._is_unanswered = self.saved.is_unanswered
        self.judgement = self.saved.judgement
        self._finished: _Finished | None = None
        if self.saved.state is not None:
            self._finished = _Finished(self.saved.state.copy(), self.saved.steps)

    @property
    def state(self) -> LoopState:
        """The state after the last finished step; not to be changed."""
        assert self._finished is not None  # no run is told of before its initial prompt is scored
        return self._finished.state

    @property
    def steps(self) -> tuple[Step, ...]:
        """All finished steps."""
        return self._finished.steps if self._finished else ()

    @property
    def unanswered(self) -> Step | None:
        """The last step, where `on_step` is still to be told of it; else None."""
        return self.steps[-1] if self._is_unanswered else None

    @property
    def test_seen_after(self) -> int | None:
        """After how many steps, fewer than now, test rows were evaluated; None for never."""
        return self.saved.test_seen_before(len(self.steps))

    @property
    def notes(self) -> tuple[str, ...]:
        """A line where the test rows are not as new as they should be."""
        if self.test_seen_after is None:
            return ()
        return (
            f"the test rows were evaluated before, after {self.test_seen_after} steps, and then "
            "the search went on: who went on for what they showed has chosen on them",
        )

    def finish(
        self, state: LoopState, step: Step | None = None, *, is_unanswered: bool = False
    ) -> None:
        """Write down a finished step, or the state before the first."""
        num_written = len(self._finished.state.scored) if self._finished else 0
        new = list(state.scored.values())[num_written:]
        with interrupts_later():
            self._directory.append_rollouts([rollouts_of(scored) for scored in new])
            self._is_unanswered = is_unanswered
            if step is None:
                self._directory.write_state(self._values(state))
            else:
                self._directory.append_step(step.to_dict(), self._values(state))
            done = () if step is None else (step,)
            self._finished = _Finished(state.copy(), (*self.steps, *done))

    def answer(self, ended: str | None) -> None:
        """Write down that `on_step` has answered, and whether that ended the search."""
        if self._is_unanswered:
            self._is_unanswered = False
            self.write_state(ended)

    def write_state(self, ended: str | None) -> None:
        """The state, and why the search ended where finals and test wait to be done."""
        minutes = {"minutes": self._minutes} if ended == OUT_OF_TIME else {}
        waiting = {"why": ended, "steps": self._num_planned, **minutes}
        self._directory.write_state(
            {**self._values(self.state), **({"ended": waiting} if ended else {})}
        )

    def write_clock(self, clock: Mapping[str, float], score_seconds: float) -> None:
        """What the run's clock says, and how long the scoring of its initial prompt took."""
        self._directory.write_clock({**clock, "score_seconds": score_seconds})

    def _values(self, state: LoopState) -> dict[str, Any]:
        return {
            **state.to_dict(),
            **({"unanswered": True} if self._is_unanswered else {}),
            **({"judged": self.judgement} if self.judgement else {}),
        }

    def write_result(self, result: Result, ended: str | None) -> None:
        """The outcome; `ended` as of `write_state`, where something of finals or test is left."""
        self._directory.write_result(result.to_dict())
        self.write_state(ended)

    def row_log(self, split: str, prompt: str, layouts: Layouts) -> RowLog:
        """Where rows of a prompt on a set go as they end, and those that are there already."""
        num_steps = len(self.steps)

        def write(number: int, row: RowRecord, model: Mapping[str, str]) -> None:
            of = {"split": split, "prompt": prompt, **model, "row": number, "num_steps": num_steps}
            self._directory.append_row({**of, **row.to_dict()})

        return RowLog(write, self.saved.rows_of(split, prompt, layouts), self.saved.model_names)

    def share_left(self, split: str, prompt: str, layouts: Layouts, num_models: int) -> float:
        """Which part of a prompt's rows on a set no earlier sitting has evaluated; 0 for none."""
        known = self.saved.rows_of(split, prompt, layouts)
        num_known = sum(len(known.get(name, {})) for name in self.saved.model_names or ("",))
        return 1 - num_known / (num_models * len(layouts))
