"""One run: the search on the training rows, the finals on the development rows, the test."""

from __future__ import annotations

import dataclasses

from greater_fast.config import Config
from greater_fast.examples.layout import Layouts
from greater_fast.gradients.example_loss import AnswerLoss
from greater_fast.model.byte_sizes import callers_errors, memory_errors_explained
from greater_fast.ranks import ALONE, Ranks
from greater_fast.runs.directory import RunDirectory
from greater_fast.runs.evaluation import Evaluation
from greater_fast.runs.interrupts import Terminated, signals_heard
from greater_fast.runs.models.mean_evaluation import evaluate_models, recorded, was_measured
from greater_fast.runs.progress import Teller
from greater_fast.runs.result import (
    PromptResult,
    Result,
    best_of,
    comparison_of,
    cut_off_lines,
    gap_notes,
)
from greater_fast.runs.sitting.journal import Journal
from greater_fast.runs.sitting.judgement import Judgement
from greater_fast.runs.timing.pace import Pace
from greater_fast.runs.timing.time_budget import OUT_OF_TIME, TimeBudget
from greater_fast.runs.visible import described, visible
from greater_fast.search.ensemble import Models, members
from greater_fast.search.judge import Judge
from greater_fast.search.nouns import Scored, Step
from greater_fast.search.optimizer import STOPPED, OnStep, flat_note, run, start
from greater_fast.search.state import LoopState

_ESTIMATED_AFTER = (0, 1, 3)  # steps: then a run says how long it will take


class Run:
    """A run with everything it needs; `layouts` has rows under train, dev and perhaps test."""

    def __init__(
        self,
        models: Models,
        layouts: dict[str, Layouts],
        config: Config,
        directory: RunDirectory,
        notes: tuple[str, ...],
        loss: AnswerLoss | None = None,
    ) -> None:
        self._models, self._layouts, self._config = models, layouts, config
        self._directory, self._notes, self._loss = directory, notes, loss
        self._max_answer_tokens = layouts["train"].longest_answer
        self._initial_ids = layouts["train"].prompt_ids
        self._journal = Journal(directory, config.steps)
        self._judgement = Judgement(self._journal)
        self._pace = Pace(layouts, config)
        self._evaluations: dict[tuple[str, tuple[int, ...]], Evaluation] = {}

    def result(
        self,
        on_step: OnStep | None,
        teller: Teller,
        budget: TimeBudget,
        ranks: Ranks = ALONE,
        judge: Judge | None = None,
    ) -> Result:
        """Search, choose, test; Ctrl-C at any point after the first score gives the result so far.

        So does an error: it goes on to the caller once the result is written, with a note that has
        the best prompt in it. SIGTERM and SIGHUP end the process then. A step that is cut off is
        dropped. Of several ranks the first decides. A run that was interrupted goes on.
        """
        with signals_heard() as signals:
            rows = self._layouts["train"]
            budget.lap()
            state = self._begin(teller, budget)
            budget.begin_search()

            def why_end() -> str | None:
                """Why no step is begun any more, where another one was to come."""
                if state.step in _ESTIMATED_AFTER and state.step < self._config.steps:
                    teller.keep(self._estimate(state, budget))
                finals = self._pace.finals(state, num_steps=1).within(budget.for_finals)
                if budget.has_room_for(self._pace.next_step() + finals):
                    return None
                return OUT_OF_TIME if state.next_position(rows, self._config) else None

            def answer(step: Step) -> str | None:
                """Why the search ends, by `on_step`."""
                with callers_errors():
                    stop = ranks.by_first(lambda: bool(on_step(step)) if on_step else False)
                self._journal.answer(STOPPED if stop else None)
                signals.hear_anew()  # it may have taken a Ctrl-C for itself
                return STOPPED if stop else None

            def log_step(step: Step) -> str | None:
                self._journal.finish(state, step, is_unanswered=on_step is not None)
                self._write_clock(budget)
                teller.step(step)
                stop = answer(step)
                self._pace.add_step(step, budget.lap())
                return stop or why_end()

            ended = self._journal.saved.ended_before(self._config.steps)
            last = self._journal.unanswered
            try:
                explained = memory_errors_explained(self._models.lm.device)
                with signals.interrupting(), ranks.together(), explained:
                    stopped = (
                        ended
                        or (last and answer(last))
                        or why_end()
                        or run(self._models, rows, self._config, state, log_step, self._loss)
                    )
                    ended = stopped
                    self._journal.write_state(ended)
                    if judge is not None:
                        self._judgement.ask(judge, self._texts(state), teller, ranks)
                        self._journal.write_state(ended)
                        signals.hear_anew()  # as after `on_step`
                        budget.lap()
                    self._measure(state, teller, budget)
            except KeyboardInterrupt:
                stopped = "interrupted"
            except BaseException as error:
                found = self._written(_ended_by(error, teller), ended)
                error.add_note(f"the best prompt until then: {visible(found.prompt)}")
                raise
            result = self._written(stopped, None if stopped == ended else ended)
            signals.leave(f"the result is in {self._directory.path}")
            return result

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
        self._journal.finish(state)
        self._write_clock(budget)
        return state

    def _write_clock(self, budget: TimeBudget) -> None:
        seconds = {"seconds": budget.elapsed(), "score_seconds": self._pace.score_seconds}
        self._directory.write_clock(seconds)

    def _estimate(self, state: LoopState, budget: TimeBudget) -> str:
        """A line on how long the run will take, and how much of it there is time for."""
        estimate = self._pace.estimate(state, self._config.steps - state.step)
        return f"to go: {estimate.describe()}{budget.describe(estimate)}"

    def _measure(self, state: LoopState, teller: Teller, budget: TimeBudget) -> None:
        """The finalists on the development rows; the initial prompt in training; the test rows.

        Where they were judged, only the best and the initial prompt. Where time is short, these are
        measured all the same; what was left out stands in the notes.
        """
        finalists, initial = self._finalists(state), state.scored[self._initial_ids]
        first = finalists[0]
        if self._judgement.of(self._text(initial)) is not None:
            first = state.scored[self._best(finalists).prompt_ids]
            finalists = [s for s in finalists if s is initial or s is first]
        sure = [s for s in finalists if s is initial or s is first]
        left_out = self._compare(finalists, sure, teller, budget)
        is_known = was_measured(initial.rollouts) or not self._share_left("train", initial)
        to_come = self._seconds("train", initial) + self._seconds("test", *sure)
        if is_known or budget.has_room_for(to_come):
            if not is_known:  # else nothing is done now
                teller.say("training rows, the initial prompt")
            self._evaluate("train", initial, budget)
        else:
            left_out.append("the initial prompt on the training rows")
        if "test" in self._layouts:
            teller.say("test rows, the best and the initial prompt")
            best = self._best(finalists)
            for prompt_ids in dict.fromkeys((self._initial_ids, best.prompt_ids)):
                self._evaluate("test", state.scored[prompt_ids], budget)
        self._notes = (*self._notes, *budget.notes(left_out))

    def _compare(
        self, finalists: list[Scored], sure: list[Scored], teller: Teller, budget: TimeBudget
    ) -> list[str]:
        """Finalists on the development rows: those that are sure, and all that there is time for.

        One whose rows are all known takes none. What there was no time for is returned.
        """
        waiting, num_measured, seconds = sure, 0, self._seconds
        for number, scored in enumerate(finalists, 1):
            is_sure = any(s is scored for s in waiting) or not self._share_left("dev", scored)
            waiting = [s for s in waiting if s is not scored]
            to_come = seconds("dev", scored, *waiting) + seconds("test", *sure)
            if is_sure or budget.has_room_for(to_come):
                teller.say(f"development rows, prompt {number} of {len(finalists)}")
                self._evaluate("dev", scored, budget)
                num_measured += 1
        if num_measured == len(finalists):
            return []
        num_left_out = len(finalists) - num_measured
        return [f"{num_left_out} of {len(finalists)} prompts on the development rows"]

    def _seconds(self, split: str, *prompts: Scored) -> float:
        """Seconds of evaluations to come, of the rows alone that earlier sittings have not done."""
        left = self._share_left
        return sum(self._pace.evaluation(split, s, share=left(split, s)) for s in prompts)

    def _share_left(self, split: str, scored: Scored) -> float:
        if split not in self._layouts:
            return 0.0
        layouts, num_models = self._layouts[split], len(members(self._models))
        prompt = layouts.prompt_text(scored.prompt_ids)
        return self._journal.share_left(split, prompt, layouts, num_models)

    def _finalists(self, state: LoopState) -> list[Scored]:
        best = state.best(self._config.num_finalists, self._config)
        baseline = state.scored[self._initial_ids]
        return best if baseline in best else [*best, baseline]

    def _best(self, finalists: list[Scored]) -> PromptResult:
        return best_of([self._prompt_result(s) for s in finalists], self._initial_ids)

    def _text(self, scored: Scored) -> str:
        return self._layouts["train"].prompt_text(scored.prompt_ids)

    def _texts(self, state: LoopState) -> list[str]:
        return [self._text(scored) for scored in self._finalists(state)]

    def _prompt_result(self, scored: Scored) -> PromptResult:
        return PromptResult(
            prompt=self._text(scored),
            prompt_ids=scored.prompt_ids,
            objective=scored.objective.value(self._config),
            train_error_rate=scored.objective.error_rate,
            judged=self._judgement.of(self._text(scored)),
            train=self._evaluations.get(("train", scored.prompt_ids)),
            dev=self._evaluations.get(("dev", scored.prompt_ids)),
            test=self._evaluations.get(("test", scored.prompt_ids)),
            answer_loss=scored.objective.answer_loss,
            prompt_nll=scored.objective.prompt_nll,
        )

    def _evaluate(self, split: str, scored: Scored, budget: TimeBudget) -> None:
        layouts, prompt_ids = self._layouts[split], scored.prompt_ids
        log = self._journal.row_log(split, layouts.prompt_text(prompt_ids), layouts)
        given = (self._models, layouts, prompt_ids, self._config)
        found = recorded(*given, scored.rollouts, log) if split == "train" else None
        if found is None:
            found = evaluate_models(*given, self._max_answer_tokens, log)
            seconds = budget.lap()
            if not any(log.known.values()):  # else it says nothing of how long one takes
                self._pace.add_evaluation(split, scored, seconds)
        self._write_clock(budget)
        self._evaluations[split, prompt_ids] = found

    def _take_known(self, state: LoopState) -> None:
        """Take in what earlier sittings evaluated, where this one was cut off before it did so."""
        finalists, initial = self._finalists(state), state.scored[self._initial_ids]
        self._judgement.take_known(self._texts(state))
        self._evaluate_known("dev", *finalists)
        self._evaluate_known("train", initial)
        best = self._best(finalists)
        self._evaluate_known("test", initial, state.scored[best.prompt_ids])

    def _evaluate_known(self, split: str, *prompts: Scored) -> None:
        for scored in prompts if split in self._layouts else ():
            key, layouts = (split, scored.prompt_ids), self._layouts[split]
            if key not in self._evaluations and not self._share_left(split, scored):
                log = self._journal.row_log(split, layouts.prompt_text(scored.prompt_ids), layouts)
                given = (self._models, layouts, scored.prompt_ids, self._config)
                self._evaluations[key] = evaluate_models(*given, self._max_answer_tokens, log)

    def _written(self, stopped: str, ended: str | None) -> Result:
        """The result of what is known, written down; what was left undone stays None.

        `ended` is why the search ended, where finals wait to be gone on with.
        """
        journal = self._journal
        state, seen_after = journal.state, journal.test_seen_after
        self._take_known(state)
        finalists = tuple(self._prompt_result(scored) for scored in self._finalists(state))
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
                *filter(None, [flat_note(state, len(self._layouts["train"]), self._config)]),
                *gap_notes(baseline),
                *cut_off_lines(best, baseline, self._config),
            ),
            run_dir=self._directory.path,
            dev_comparison=comparison_of(best.dev, baseline.dev),
            test_comparison=comparison_of(best.test, baseline.test),
            test_seen_after=seen_after,
        )
        journal.write_result(result, ended)
        if problem := self._directory.problem:
            return dataclasses.replace(result, notes=(*result.notes, problem))
        return result


def _ended_by(error: BaseException, teller: Teller) -> str:
    if not isinstance(error, Terminated):
        return f"failed: {described(error)}"
    teller.keep(f"{error.name}: what was found until then is written")
    return "terminated"
