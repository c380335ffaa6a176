"""One run: the search on the training rows, then its finals, and what is written at its end."""

from __future__ import annotations

from dataclasses import replace

from greater_fast.config import Config
from greater_fast.examples.layout import Layouts
from greater_fast.model.byte_sizes import callers_errors, memory_errors_explained
from greater_fast.ranks import ALONE, Ranks
from greater_fast.runs.directory import RunDirectory
from greater_fast.runs.evaluation import cut_off_notes
from greater_fast.runs.interrupts import Terminated, signals_heard
from greater_fast.runs.progress import Teller
from greater_fast.runs.result import (
    PromptResult,
    Result,
    best_of,
    comparison_of,
    gap_notes,
)
from greater_fast.runs.sitting.finals import Finals
from greater_fast.runs.sitting.functions import Functions
from greater_fast.runs.sitting.journal import Journal
from greater_fast.runs.timing.pace import Pace
from greater_fast.runs.timing.time_budget import OUT_OF_TIME, TimeBudget
from greater_fast.runs.visible import described, visible
from greater_fast.search.ensemble import Models
from greater_fast.search.nouns import Step
from greater_fast.search.optimizer import STOPPED, flat_note, run, start
from greater_fast.search.state import LoopState

# Steps: then, and where it is gone on with, a run says how long it will take.
_ESTIMATED_AFTER = (0, 1, 3)


class Run:
    """A run with everything it needs; `layouts` has rows under train, dev and perhaps test."""

    def __init__(
        self,
        models: Models,
        layouts: dict[str, Layouts],
        config: Config,
        directory: RunDirectory,
        notes: tuple[str, ...],
        functions: Functions,
    ) -> None:
        self._models, self._layouts, self._config = models, layouts, config
        self._directory, self._notes, self._functions = directory, notes, functions
        self._initial_ids = layouts["train"].prompt_ids
        self._journal = Journal(directory, config.steps, config.minutes)
        # Where a judge chooses, the best and the initial prompt alone are measured.
        compared = config if functions.judge is None else replace(config, num_finalists=1)
        self._pace = Pace(layouts, compared)
        self._finals = Finals(models, layouts, config, self._journal, self._pace)

    def result(self, teller: Teller, budget: TimeBudget, ranks: Ranks = ALONE) -> Result:
        """Search, choose, test; Ctrl-C at any point after the first score gives the result so far.

        So does an error: it goes on to the caller once the result is written, with a note that has
        the best prompt in it. SIGTERM and SIGHUP end the process then. A step that is cut off is
        dropped. Of several ranks the first decides. A run that was interrupted goes on.
        """
        on_step, judge = self._functions.on_step, self._functions.judge
        with signals_heard() as signals:
            rows = self._layouts["train"]
            budget.lap()
            state = self._begin(teller, budget)
            saved = self._journal.saved
            budget.begin_search(self._search_begun())
            num_before = state.step
            ended = saved.ended_before(self._config)

            def why_end() -> str | None:
                """Why no step is begun any more, where another one was to come."""
                is_time = state.step in (*_ESTIMATED_AFTER, num_before)
                if is_time and state.step < self._config.steps:
                    teller.keep(self._estimate(state, budget))
                finals = self._pace.finals(state, num_steps=1).within(budget.for_finals)
                if budget.has_room_for(self._pace.next_step() + finals):
                    return None
                if not state.next_position(rows, self._config):
                    return None
                if state.step == num_before > 0:
                    teller.keep("minutes: those of the run are over: it goes on with more in all")
                return OUT_OF_TIME

            def answer(step: Step) -> str | None:
                """Why the search ends, by `on_step`; known from here on, whatever comes next."""
                nonlocal ended
                with callers_errors():
                    stop = ranks.by_first(lambda: bool(on_step(step)) if on_step else False)
                ended = STOPPED if stop else None
                self._journal.answer(ended)
                signals.hear_anew()  # it may have taken a Ctrl-C for itself
                return ended

            def log_step(step: Step) -> str | None:
                self._journal.finish(state, step, is_unanswered=on_step is not None)
                self._journal.write_clock(budget.clock(), self._pace.score_seconds)
                teller.step(step)
                stop = answer(step)
                self._pace.add_step(step, budget.lap())
                return stop or why_end()

            last = self._journal.unanswered
            try:
                explained = memory_errors_explained(self._models.lm.device)
                with signals.interrupting(), ranks.together(), explained:
                    stopped = (
                        ended
                        or (last and answer(last))
                        or why_end()
                        or run(
                            self._models, rows, self._config, state, log_step, self._functions.loss
                        )
                    )
                    ended = stopped
                    self._journal.write_state(ended)
                    if judge is not None:
                        self._finals.ask(judge, state, teller, ranks)
                        self._journal.write_state(ended)
                        signals.hear_anew()  # as after `on_step`
                        budget.lap()
                    self._notes += self._finals.measure(state, teller, budget)
            except KeyboardInterrupt:
                stopped = "interrupted"
            except BaseException as error:
                found = self._written(_ended_by(error, teller), ended)
                error.add_note(f"the best prompt until then: {visible(found.prompt)}")
                raise
            result = self._written(stopped, None if stopped == ended else ended)
            signals.leave(f"the result is in {self._directory.path}")
            return result

    def _search_begun(self) -> float | None:
        """When the search began, on the run's clock; None for now, as where the limit is another.

        What is added to a limit is shared out anew: the finals may be done already.
        """
        saved = self._journal.saved
        is_same = saved.run.get("config", {}).get("minutes") == self._config.minutes
        return saved.clock.get("search_begun") if is_same else None

    def _begin(self, teller: Teller, budget: TimeBudget) -> LoopState:
        """The state before the first step, or where the run was when it was interrupted."""
        saved = self._journal.saved
        if saved.state is not None:
            teller.say(f"going on after step {saved.state.step} of {self._config.steps}")
            initial = saved.state.scored[self._initial_ids]
            self._pace.go_on(initial, saved.steps, saved.clock.get("score_seconds", 0.0))
            return saved.state
        rows = self._layouts["train"]
        teller.say(f"scoring the initial prompt on {len(rows)} rows")
        if over := budget.spent():
            teller.keep(over)
        with memory_errors_explained(self._models.lm.device):
            state = start(self._models, rows, self._config)
        self._pace.add_score(state.incumbent, budget.lap())
        for note in self._cut_off_in_training(state):
            teller.keep(note)
        self._journal.finish(state)
        self._journal.write_clock(budget.clock(), self._pace.score_seconds)
        return state

    def _cut_off_in_training(self, state: LoopState) -> tuple[str, ...]:
        """A line on reasonings of the initial prompt that the token limit ended."""
        limit = self._config.max_new_tokens
        found = state.scored[self._initial_ids].rollouts
        number = sum(rollout.is_cut_off(limit) for rollout in found)
        return cut_off_notes("training rows, initial prompt", number, len(found), self._config)

    def _cut_off(self, best: PromptResult, baseline: PromptResult) -> list[str]:
        """Such lines on the other rows, of both prompts that are compared."""
        prompts = {"initial": baseline} if best == baseline else {"initial": baseline, "best": best}
        notes: list[str] = []
        for role, prompt in prompts.items():
            for split, own in (("dev", prompt.dev), ("test", prompt.test)):
                if own is not None:
                    name, number = f"{split} rows, {role} prompt", len(own.rows)
                    notes += cut_off_notes(name, own.num_cut_off, number, self._config)
        return notes

    def _estimate(self, state: LoopState, budget: TimeBudget) -> str:
        """A line on how long the run will take, and how much of it there is time for."""
        estimate = self._pace.estimate(state, self._config.steps - state.step)
        return f"to go: {estimate.describe()}{budget.describe(estimate)}"

    def _written(self, stopped: str, ended: str | None) -> Result:
        """The result of what is known, written down; what was left undone stays None.

        `ended` is why the search ended, where finals wait to be gone on with.
        """
        journal = self._journal
        state, seen_after = journal.state, journal.test_seen_after
        self._finals.take_known(state)
        finalists = tuple(map(self._finals.prompt_result, self._finals.finalists(state)))
        best = best_of(finalists, self._initial_ids)
        baseline = next(f for f in finalists if f.prompt_ids == self._initial_ids)
        result = Result(
            best=best,
            baseline=baseline,
            finalists=finalists,
            steps=journal.steps,
            stopped=stopped,
            extractor=self._layouts["train"].extractor.in_config(),
            notes=(
                *self._notes,
                *journal.notes,
                *self._finals.notes,
                *filter(None, [flat_note(state, self._layouts["train"], self._config)]),
                *gap_notes(baseline, self._layouts["train"].extractor),
                *self._cut_off_in_training(state),
                *self._cut_off(best, baseline),
            ),
            run_dir=self._directory.path,
            dev_comparison=comparison_of(best.dev, baseline.dev),
            test_comparison=comparison_of(best.test, baseline.test),
            test_seen_after=seen_after,
        )
        journal.write_result(result, ended)
        if problem := self._directory.problem:
            return replace(result, notes=(*result.notes, problem))
        return result


def _ended_by(error: BaseException, teller: Teller) -> str:
    if not isinstance(error, Terminated):
        return f"failed: {described(error)}"
    teller.keep(f"{error.name}: what was found until then is written")
    return "terminated"
