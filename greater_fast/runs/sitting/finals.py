"""The finals of a run: the best prompts on development rows or by a judge, one on test rows."""

from __future__ import annotations

import itertools

from greater_fast.config import Config
from greater_fast.examples.layout import Layouts
from greater_fast.ranks import Ranks
from greater_fast.runs.evaluation import Evaluation
from greater_fast.runs.models.mean_evaluation import evaluate_models, recorded, was_measured
from greater_fast.runs.progress import Teller
from greater_fast.runs.result import PromptResult, best_of
from greater_fast.runs.sitting.journal import Journal
from greater_fast.runs.sitting.judgement import Judgement
from greater_fast.runs.timing.pace import Pace
from greater_fast.runs.timing.time_budget import TimeBudget
from greater_fast.search.ensemble import Models, members
from greater_fast.search.judge import Judge
from greater_fast.search.nouns import Scored
from greater_fast.search.state import LoopState


class Finals:
    """What is known of the finalists; `layouts` has rows under train, dev and perhaps test."""

    def __init__(
        self,
        models: Models,
        layouts: dict[str, Layouts],
        config: Config,
        journal: Journal,
        pace: Pace,
    ) -> None:
        self._models, self._layouts, self._config = models, layouts, config
        self._journal, self._pace = journal, pace
        self._judgement = Judgement(journal)
        self._initial_ids = layouts["train"].prompt_ids
        self._evaluations: dict[tuple[str, tuple[int, ...]], Evaluation] = {}
        self._whole: dict[tuple[int, ...], bool] = {}

    def ask(self, judge: Judge, state: LoopState, teller: Teller, ranks: Ranks) -> None:
        """Let a judge say what it makes of the finalists, as of `Judgement.ask`."""
        self._judgement.ask(judge, self._texts(state), teller, ranks)

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines where the judge was not asked, as of `Judgement`, or a prompt is none elsewhere."""
        num_left_out = sum(not whole for whole in self._whole.values())
        if not num_left_out:
            return self._judgement.notes
        return (
            *self._judgement.notes,
            f"{num_left_out} of the best prompts by the training rows were left out: on "
            "development or test rows the tokenizer merges them with the text beside them",
        )

    def measure(self, state: LoopState, teller: Teller, budget: TimeBudget) -> tuple[str, ...]:
        """The finalists on the development rows; the initial prompt in training; the test rows.

        Where they were judged, only the best and the initial prompt. Where time is short, these are
        measured all the same. What was left out is returned, as notes.
        """
        finalists, initial = self.finalists(state), state.scored[self._initial_ids]
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
            tested = dict.fromkeys((self._initial_ids, self._best(finalists).prompt_ids))
            teller.say(f"test rows, {'the best and ' if len(tested) > 1 else ''}the initial prompt")
            for prompt_ids in tested:
                self._evaluate("test", state.scored[prompt_ids], budget)
        return budget.notes(left_out)

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

    def finalists(self, state: LoopState) -> list[Scored]:
        """The best prompts by their training rows, best first, and the initial one.

        All of these have their ids on the other rows too when their text is pasted there, as the
        initial one has.
        """
        ordered = state.best(len(state.scored), self._config)
        whole = filter(self._is_whole, ordered)
        best = list(itertools.islice(whole, self._config.num_finalists))
        baseline = state.scored[self._initial_ids]
        return best if baseline in best else [*best, baseline]

    def _is_whole(self, scored: Scored) -> bool:
        ids, others = scored.prompt_ids, (self._layouts.get("dev"), self._layouts.get("test"))
        if ids not in self._whole:
            self._whole[ids] = all(rows.round_trips([ids])[0] for rows in others if rows)
        return self._whole[ids]

    def _best(self, finalists: list[Scored]) -> PromptResult:
        return best_of([self.prompt_result(s) for s in finalists], self._initial_ids)

    def _text(self, scored: Scored) -> str:
        return self._layouts["train"].prompt_text(scored.prompt_ids)

    def _texts(self, state: LoopState) -> list[str]:
        return [self._text(scored) for scored in self.finalists(state)]

    def prompt_result(self, scored: Scored) -> PromptResult:
        """What is known of a prompt so far."""
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
            found = evaluate_models(*given, log)
            seconds = budget.lap()
            if not any(log.known.values()):  # else it says nothing of how long one takes
                self._pace.add_evaluation(split, scored, seconds)
        self._journal.write_clock(budget.clock(), self._pace.score_seconds)
        self._evaluations[split, prompt_ids] = found

    def take_known(self, state: LoopState) -> None:
        """Take in what earlier sittings evaluated, where this one was cut off before it did so."""
        finalists, initial = self.finalists(state), state.scored[self._initial_ids]
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
                self._evaluations[key] = evaluate_models(*given, log)
