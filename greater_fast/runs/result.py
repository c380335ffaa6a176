"""What a run returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greater_fast.examples.extractor import Extractor
from greater_fast.runs.evaluation import Comparison, Evaluation
from greater_fast.runs.models.mean_evaluation import MeanEvaluation, compare_models
from greater_fast.runs.notebook import result_html
from greater_fast.runs.statistics import is_sure, p_text, points_text
from greater_fast.runs.visible import visible
from greater_fast.search.nouns import Step


@dataclass(frozen=True, slots=True)
class PromptResult:
    """A prompt with its figures: objective on the training rows, accuracy on the others.

    `train` is the initial prompt's accuracy there, to be held beside its `train_error_rate`: the
    search wants the gold answer token by token, evaluation compares what is generated; with a
    metric and objective error, both are the metric's. `dev` is
    None where the run was stopped before the development rows; `test` where none were given, and
    for prompts that were neither the initial nor the best, of which a run with a judge measures
    none on the development rows either. `answer_loss` is the mean cross-entropy of the gold answers
    in training at the temperature of the loss (0 where answers were measured), `prompt_nll` the
    mean -log p of the prompt's tokens in nats, `judged` what the judge gave the prompt.
    """

    prompt: str
    prompt_ids: tuple[int, ...]
    objective: float
    train_error_rate: float
    train: Evaluation | None = None
    dev: Evaluation | None = None
    test: Evaluation | None = None
    answer_loss: float | None = None
    prompt_nll: float | None = None
    judged: float | None = None

    @property
    def dev_accuracy(self) -> float | None:
        """Accuracy on the development rows."""
        return self.dev.accuracy if self.dev else None

    @property
    def test_accuracy(self) -> float | None:
        """Accuracy on the test rows."""
        return self.test.accuracy if self.test else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without rows."""
        return {
            "prompt": self.prompt,
            "prompt_ids": list(self.prompt_ids),
            "objective": self.objective,
            "train_error_rate": self.train_error_rate,
            "answer_loss": self.answer_loss,
            "prompt_nll": self.prompt_nll,
            "judged": self.judged,
            "train": self.train.to_dict() if self.train else None,
            "dev": self.dev.to_dict() if self.dev else None,
            "test": self.test.to_dict() if self.test else None,
        }


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """The outcome of `optimize`.

    `best` is the prompt with the highest development accuracy, or the one that a judge gave the
    most, `baseline` the initial one; `finalists` holds both and the others that were tried.
    `dev_comparison` and
    `test_comparison` pair best (first) with baseline (second). `stopped` says why the loop ended,
    in a few words: "all steps done", "out of time", "interrupted", ... `test_seen_after` is set
    where the search went on, after so many steps, when the test rows had been evaluated already:
    whoever saw that result could choose to go on for it. A notebook shows it as a table with the
    curve of the search, a terminal as a few lines.
    """

    best: PromptResult
    baseline: PromptResult
    finalists: tuple[PromptResult, ...]
    steps: tuple[Step, ...]
    stopped: str
    extractor: str
    notes: tuple[str, ...]
    run_dir: Path
    dev_comparison: Comparison | None = None
    test_comparison: Comparison | None = None
    test_seen_after: int | None = None

    @property
    def prompt(self) -> str:
        """The best prompt, to be put where the initial one stood."""
        return self.best.prompt

    @property
    def dev_accuracy(self) -> float | None:
        """Accuracy of the best prompt on the development rows."""
        return self.best.dev_accuracy

    @property
    def test_accuracy(self) -> float | None:
        """Accuracy of the best prompt on the test rows, where some were given."""
        return self.best.test_accuracy

    @property
    def summary(self) -> str:
        """One sentence: what was gained, on rows never seen where there were some, or not."""
        new, initial = self.best, self.baseline
        if new.dev is None or initial.dev is None:
            return (
                "Whether anything was gained is unknown: the run ended before the prompts "
                "were compared on rows that the search had not seen."
            )
        if new.prompt_ids == initial.prompt_ids:
            where = self._test_rows if initial.test else "development rows"
            measured = initial.test or initial.dev
            is_known = new.judged is not None or all(finalist.dev for finalist in self.finalists)
            so_far = "" if is_known else " so far"
            return (
                f"Nothing was gained{so_far}: the initial prompt is still the best; on "
                f"{measured.num_rows} {where}, it {_is_right_on(measured)}."
            )
        if new.test and initial.test and self.test_comparison:
            return (
                f"On {new.test.num_rows} {self._test_rows}, the new prompt "
                f"{_is_right_on(new.test, initial.test)}: {gain_text(self.test_comparison)}."
            )
        assert self.dev_comparison is not None  # both were measured
        chosen = "by which it was chosen" if new.judged is None else "while a judge chose it"
        return (
            f"On the {new.dev.num_rows} development rows, {chosen}, the new prompt "
            f"{_is_right_on(new.dev, initial.dev)}: {gain_text(self.dev_comparison)}; on rows "
            f"never seen, {'the new one was not' if initial.test else 'neither was'} tried."
        )

    @property
    def _test_rows(self) -> str:
        """What the test rows are, in words."""
        if self.test_seen_after is None:
            return "rows never seen"
        return f"rows tested on once before, after {self.test_seen_after} steps"

    def __repr__(self) -> str:
        lines = (self.summary, f"best prompt: {self.prompt}", f"run directory: {self.run_dir}")
        return visible("\n".join(lines))

    def _repr_html_(self) -> str:
        return result_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the steps stand in the run directory's step log."""
        return {
            "summary": self.summary,
            "prompt": self.prompt,
            "dev_accuracy": self.dev_accuracy,
            "test_accuracy": self.test_accuracy,
            "stopped": self.stopped,
            "num_steps": len(self.steps),
            "extractor": self.extractor,
            "notes": list(self.notes),
            "run_dir": str(self.run_dir),
            "best": self.best.to_dict(),
            "baseline": self.baseline.to_dict(),
            "finalists": [f.to_dict() for f in self.finalists],
            "dev_comparison": self.dev_comparison.to_dict() if self.dev_comparison else None,
            "test_comparison": self.test_comparison.to_dict() if self.test_comparison else None,
            "test_seen_after": self.test_seen_after,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of `evaluate`: a prompt's figures, and those of a second prompt beside it."""

    evaluation: Evaluation
    against: Evaluation | None
    comparison: Comparison | None
    extractor: str
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        both = [e for e in (self.evaluation, self.against) if e]
        return visible("\n".join(f"{_is_right_on(e)}: {e.prompt}" for e in both))

    @property
    def accuracy(self) -> float:
        """Share of the rows that the prompt gets right; with a metric, its mean."""
        return self.evaluation.accuracy

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the accuracy."""
        return self.evaluation.interval

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain values for JSON."""
        return {
            **self.evaluation.to_dict(),
            "extractor": self.extractor,
            "notes": list(self.notes),
            "against": self.against.to_dict() if self.against else None,
            "comparison": self.comparison.to_dict() if self.comparison else None,
        }


def _is_right_on(measured: Evaluation, initial: Evaluation | None = None) -> str:
    """What a prompt came to, and beside it the initial one, in the words for what was measured."""
    verb, preposition = ("scores", "") if measured.metric else ("is right on", "on ")
    beside = f", the initial one {preposition}{accuracy_text(initial)}" if initial else ""
    return f"{verb} {accuracy_text(measured)}{beside}"


def accuracy_text(measured: Evaluation) -> str:
    """An accuracy with its 95% interval, in percent; of several models the mean, then each."""
    low, high = measured.interval
    text = f"{measured.accuracy:.1%} [{100 * low:.1f}, {100 * high:.1f}]"
    if isinstance(measured, MeanEvaluation):
        each = (f"{name} {own.accuracy:.1%}" for name, own in measured.by_model.items())
        text += f" (mean of {', '.join(each)})"
    return text


def gain_text(comparison: Comparison) -> str:
    """A difference with its 95% interval in points and its p, and what to make of them."""
    low, high = comparison.interval
    figures = (
        f"{points_text(comparison.difference)} points [{points_text(low)}, {points_text(high)}], "
        f"{p_text(comparison.p_value)}"
    )
    if comparison.difference <= 0:
        return f"nothing was gained ({figures})"
    return figures if is_sure(comparison.p_value) else f"{figures}, which may be chance"


def best_of(finalists: Sequence[PromptResult], initial_ids: tuple[int, ...]) -> PromptResult:
    """The finalist that does best on the development rows, or that a judge gave the most.

    They stand in the order of their training objective: the first of equals wins, but a prompt
    that is no better than the initial one is no reason to change. All were judged, or none was.
    """
    best = max(finalists, key=_worth)
    baseline = next(f for f in finalists if f.prompt_ids == initial_ids)
    is_known = baseline.dev is not None or baseline.judged is not None
    return baseline if is_known and _worth(baseline) == _worth(best) else best


def gap_notes(prompt: PromptResult, extractor: Extractor) -> tuple[str, ...]:
    """A line where the two measures of the training rows are more than a tenth of them apart."""
    if prompt.train is None or prompt.train.metric is not None:
        return ()
    if abs(prompt.train.accuracy + prompt.train_error_rate - 1) <= 0.1:
        return ()
    rows = len(prompt.train.rows)  # of each model, where there are several
    by_token = round((1 - prompt.train_error_rate) * rows)
    advice = (
        "ends in what the model writes before an answer, a colon or a quote"
        if extractor.closing.strip()
        else "closes the answer, as '... is {answer}.' does (now the line's end does)"
    )
    return (
        f"the initial prompt has {prompt.train.num_correct} of {rows} training rows right as "
        f"evaluation reads them, and {by_token} token by token, as the search wants them: an "
        f"extractor that {advice}, brings the two together",
    )


def _worth(prompt: PromptResult) -> float:
    """What finalists are chosen by."""
    return _dev_sum(prompt) if prompt.judged is None else prompt.judged


def _dev_sum(prompt: PromptResult) -> float:
    """What the development rows count, all together: whole numbers without a metric."""
    if prompt.dev is None:
        return -1
    # Means of equal values may part in their last bits.
    return prompt.dev.num_correct if prompt.dev.metric is None else round(prompt.dev.accuracy, 9)


def comparison_of(first: Evaluation | None, second: Evaluation | None) -> Comparison | None:
    """Two prompts on the same rows, where both were measured there."""
    return compare_models(first, second) if first and second else None
