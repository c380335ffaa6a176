"""One run: the search on the training rows, the finals on the development rows, the test."""

from __future__ import annotations

import dataclasses
import logging

from greater_fast.config import Config
from greater_fast.engine import Engine
from greater_fast.examples.layout import Layouts
from greater_fast.gradients.example_loss import AnswerLoss
from greater_fast.runs.directory import RunDirectory
from greater_fast.runs.evaluation import (
    Comparison,
    Evaluation,
    compare,
    cut_off_notes,
    evaluate_prompt,
)
from greater_fast.runs.result import PromptResult, Result
from greater_fast.search.nouns import Scored, Step
from greater_fast.search.optimizer import OnStep, run, start
from greater_fast.search.state import LoopState

_log = logging.getLogger("greater_fast")


class Run:
    """A run with everything it needs; `layouts` has rows under train, dev and perhaps test."""

    def __init__(
        self,
        engine: Engine,
        layouts: dict[str, Layouts],
        config: Config,
        directory: RunDirectory,
        notes: tuple[str, ...],
        loss: AnswerLoss | None = None,
    ) -> None:
        self._engine, self._layouts, self._config = engine, layouts, config
        self._directory, self._notes, self._loss = directory, notes, loss
        self._max_answer_tokens = layouts["train"].longest_answer
        self._steps: list[Step] = []

    def result(self, on_step: OnStep | None) -> Result:
        """Search, choose, test; Ctrl-C at any point gives the result so far."""
        _log.info("scoring the initial prompt on %d rows", len(self._layouts["train"]))
        state = start(self._engine, self._layouts["train"], self._config)
        baseline = state.incumbent
        stopped = self._search(state, on_step)
        finalists = [self._prompt_result(s) for s in self._finalists(state, baseline)]
        interrupted = stopped == "interrupted"
        try:
            for number, finalist in enumerate([] if interrupted else finalists):
                _log.info("development rows, prompt %d of %d", number + 1, len(finalists))
                finalists[number] = dataclasses.replace(
                    finalist, dev=self._evaluate("dev", finalist.prompt_ids)
                )
            if not interrupted:
                _log.info("training rows, the initial prompt")
                number = [f.prompt_ids for f in finalists].index(baseline.prompt_ids)
                finalists[number] = dataclasses.replace(
                    finalists[number], train=self._evaluate("train", baseline.prompt_ids)
                )
        except KeyboardInterrupt:
            stopped, interrupted = "interrupted", True
        return self._finish(finalists, baseline.prompt_ids, stopped, interrupted)

    def _search(self, state: LoopState, on_step: OnStep | None) -> str:
        def log_step(step: Step) -> bool | None:
            self._steps.append(step)
            self._directory.append_step(step.to_dict(), state.to_dict())
            return on_step(step) if on_step else None

        try:
            layouts, config = self._layouts["train"], self._config
            return run(self._engine, layouts, config, state, log_step, self._loss)
        except KeyboardInterrupt:
            return "interrupted"
        finally:
            self._directory.write_state(state.to_dict())

    def _finalists(self, state: LoopState, baseline: Scored) -> list[Scored]:
        best = state.best(self._config.num_finalists, self._config)
        return best if baseline in best else [*best, baseline]

    def _prompt_result(self, scored: Scored) -> PromptResult:
        return PromptResult(
            prompt=self._layouts["train"].prompt_text(scored.prompt_ids),
            prompt_ids=scored.prompt_ids,
            objective=scored.objective.value(self._config),
            train_error_rate=scored.objective.error_rate,
        )

    def _evaluate(self, split: str, prompt_ids: tuple[int, ...]) -> Evaluation:
        evaluation = evaluate_prompt(
            self._engine, self._layouts[split], prompt_ids, self._config, self._max_answer_tokens
        )
        self._directory.append_rows(
            {"split": split, "prompt": evaluation.prompt, **dataclasses.asdict(row)}
            for row in evaluation.rows
        )
        return evaluation

    def _finish(
        self,
        finalists: list[PromptResult],
        initial_ids: tuple[int, ...],
        stopped: str,
        interrupted: bool,
    ) -> Result:
        """Choose, test, and write the result; what an interruption left undone stays None."""
        baseline = next(f for f in finalists if f.prompt_ids == initial_ids)
        # They stand in the order of their training objective: the first of equals wins, but a
        # prompt that is no better on the development rows is no reason to change.
        best = max(finalists, key=_num_correct)
        if baseline.dev and _num_correct(baseline) == _num_correct(best):
            best = baseline
        if "test" in self._layouts and not interrupted:
            try:
                _log.info("test rows, the best and the initial prompt")
                baseline = self._tested(baseline)
                best = baseline if best.prompt_ids == initial_ids else self._tested(best)
            except KeyboardInterrupt:
                stopped = "interrupted"
        result = Result(
            best=best,
            baseline=baseline,
            finalists=tuple(finalists),
            steps=tuple(self._steps),
            stopped=stopped,
            extractor=self._layouts["train"].extractor.in_config(),
            notes=(
                *self._notes,
                *_gap(baseline),
                *cut_off_notes("dev", best.dev, self._config),
                *cut_off_notes("test", best.test, self._config),
            ),
            run_dir=self._directory.path,
            dev_comparison=_comparison(best.dev, baseline.dev),
            test_comparison=_comparison(best.test, baseline.test),
        )
        self._directory.write_result(result.to_dict())
        return result

    def _tested(self, prompt: PromptResult) -> PromptResult:
        return dataclasses.replace(prompt, test=self._evaluate("test", prompt.prompt_ids))


def _gap(prompt: PromptResult) -> tuple[str, ...]:
    """A line where the two measures of the training rows are more than a tenth of them apart."""
    if prompt.train is None or abs(prompt.train.accuracy + prompt.train_error_rate - 1) <= 0.1:
        return ()
    rows = prompt.train.num_rows
    by_token = round((1 - prompt.train_error_rate) * rows)
    return (
        f"the initial prompt has {prompt.train.num_correct} of {rows} training rows right as "
        f"evaluation reads them, and {by_token} token by token, as the search wants them: an "
        "extractor that ends in what the model writes before an answer, a colon or a quote, brings "
        "the two together",
    )


def _num_correct(prompt: PromptResult) -> int:
    return prompt.dev.num_correct if prompt.dev else -1


def _comparison(first: Evaluation | None, second: Evaluation | None) -> Comparison | None:
    return compare(first, second) if first and second else None
