"""Our engine as the model of GEPA's task: many candidates and rows in one batch."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from greater_fast.config import Config
from greater_fast.engine import Rollout, RolloutRequest
from greater_fast.examples.data import Example
from greater_fast.examples.golds import in_one_form, spellings
from greater_fast.examples.layout import Layouts, build_layouts
from greater_fast.front_ends.gepa.proposer import DECIDED, Candidate, GReaTerProposer
from greater_fast.front_ends.missing import needs
from greater_fast.model.byte_sizes import memory_errors_explained
from greater_fast.rollouts.choose import make_engine
from greater_fast.runs.evaluation import RowRecord, record_rollouts
from greater_fast.runs.input import check_settings
from greater_fast.runs.models.ready import load_model
from greater_fast.runs.prepare import as_config, choose_extractor
from greater_fast.runs.rows.asking import answer_request
from greater_fast.wording import quoted

try:
    from gepa.core.adapter import EvaluationBatch, GEPAAdapter
except ImportError as error:
    raise needs("gepa", error) from error

_log = logging.getLogger("greater_fast")

_DECIDED = {
    **DECIDED,
    "num_train": "proposer(rows)",
    "num_dev": "GEPA's valset",
    "template": "load_examples, which read the rows,",
}
_ANY_PROMPT = "Think."  # rows are checked with it, before there is a candidate
_LEAST_LOGPROB = math.log(sys.float_info.min)  # of an answer that nothing was asked for


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What became of a row: what a reflection model is told of it."""

    question: str
    reasoning: str
    predicted: str
    gold: str
    feedback: str

    def record(self) -> dict[str, Any]:
        """The row in a reflective dataset."""
        return {
            "Inputs": {"question": self.question},
            "Generated Outputs": {"reasoning": self.reasoning, "answer": self.predicted},
            "Feedback": self.feedback,
        }


class GReaTerAdapter(GEPAAdapter[Example, Trajectory, str]):
    """Evaluates candidates with our engine: reasoning, then the answer behind the extractor.

    All candidates and rows of a call are one batch. A score is 1 or 0, or with a metric among the
    settings its value; an output is the predicted answer. `objective_scores` has it as "accuracy",
    and the gold answer's mean log-probability per token, at the temperature of the loss, as
    "answer_logprob".

    Args:
        model: what `load_lm` takes.
        rows: all rows that GEPA is given, for training and validation, as `load_examples` reads
            them.
        component: the name of a candidate's only component, which is the prompt.
        config: settings, or a mapping of some of them.

    Raises:
        ValueError: a model, rows or settings that cannot work, or that something else decides.
    """

    propose_new_texts = None  # GEPA looks it up: proposals are made elsewhere

    def __init__(
        self,
        model: Any,
        rows: Sequence[Example],
        component: str = "prompt",
        config: Config | Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self.component = as_config(config), component
        check_settings(config, _DECIDED)
        if not rows:
            raise ValueError("rows: got none, expected those of training and validation")
        if not all(isinstance(row, Example) for row in rows):
            raise ValueError("rows: expected a list of Example, as load_examples gives it")
        if self.config.on_long == "drop":
            raise ValueError("on_long: got 'drop', but GEPA asks for all of its rows: leave it out")
        golds = spellings(gold for row in rows for gold in row.answers)
        examples = in_one_form(rows, golds)
        extractor = choose_extractor(self.config, examples)
        lm = load_model(model, self.config)
        self._layouts = build_layouts(lm, examples, _ANY_PROMPT, extractor, self.config)
        self._numbers = {row: number for number, row in enumerate(rows)}
        longest = self._layouts.longest_sequence(self.config)
        self.engine, note = make_engine(lm, self.config, longest)
        self._is_new = True
        _log.info("GEPA: %s; %s", note, self._layouts.extractor.describe())

    @property
    def extractor(self) -> str:
        """The extractor, as settings have it: `evaluate` asks other rows alike with it."""
        return self._layouts.extractor.in_config()

    def proposer(self, rows: Sequence[Example], steps: int = 4) -> GReaTerProposer:
        """A proposer that searches on some of the adapter's rows, with its engine and settings.

        Raises:
            ValueError: there is no row or no step, or a row is none of the adapter's.
        """
        layouts = _with_rows(self._layouts, self._numbers_of(rows))
        return GReaTerProposer(
            self.engine, layouts, self.config, component=self.component, steps=steps
        )

    def evaluate(
        self, batch: Sequence[Example], candidate: Candidate, capture_traces: bool = False
    ) -> EvaluationBatch[Trajectory, str]:
        """A candidate's answers on rows; trajectories where they are asked for.

        A text that cannot be the prompt scores 0 on all rows, and the feedback says why.

        Raises:
            ValueError: the first text of all cannot be the prompt; the candidate has other
                components, or a row is none of the adapter's.
        """
        return self.batch_evaluate([(candidate, batch)], capture_traces)[0]

    def batch_evaluate(
        self, items: Sequence[tuple[Candidate, Sequence[Example]]], capture_traces: bool = True
    ) -> list[EvaluationBatch[Trajectory, str]]:
        """Several candidates, each on rows of its own, in one batch; as `evaluate` does one."""
        asked = [self._laid_out(*item) for item in items]
        rows = [
            (layouts, row, number)
            for layouts, (_, batch) in zip(asked, items, strict=True)
            if isinstance(layouts, Layouts)
            for row, number in enumerate(self._numbers_of(batch))
        ]
        lm, limit = self.engine.lm, self._layouts.answer_limit
        requests = [
            replace(
                answer_request(lm, layouts, row, layouts.prompt_ids, self.config),
                max_answer_tokens=limit,  # a batch's own rows may have shorter ones
                sample_key=number,  # a row's sample is its own, whatever batch it is in
            )
            for layouts, row, number in rows
        ]
        rollouts = self._run(requests)
        golds = self._run(
            [
                _gold_scored(request, rollout, layouts, row)
                for request, rollout, (layouts, row, _) in zip(
                    requests, rollouts, rows, strict=True
                )
            ]
        )
        done = iter(zip(rollouts, golds, strict=True))
        found = [
            self._evaluated(layouts, list(islice(done, len(layouts))))
            if isinstance(layouts, Layouts)
            else _refused(layouts, batch)
            for layouts, (_, batch) in zip(asked, items, strict=True)
        ]
        self._is_new = False
        return found if capture_traces else [replace(each, trajectories=None) for each in found]

    def make_reflective_dataset(
        self,
        candidate: Candidate,
        eval_batch: EvaluationBatch[Trajectory, str],
        components_to_update: Sequence[str],
    ) -> dict[str, list[dict[str, Any]]]:
        """What a reflection model is told of each row: question, reasoning, answer, feedback."""
        records = [trajectory.record() for trajectory in eval_batch.trajectories or ()]
        return {name: list(records) for name in components_to_update}

    def _laid_out(self, candidate: Candidate, batch: Sequence[Example]) -> Layouts | str:
        """The rows around the candidate's text; or why it cannot be there."""
        if set(candidate) != {self.component}:
            raise ValueError(
                f"candidate: got the components {quoted(list(candidate))}, expected "
                f"{self.component!r} alone: the prompt is all that an adapter runs"
            )
        numbers = self._numbers_of(batch)
        try:
            layouts = self._layouts.with_prompt(candidate[self.component])
        except ValueError as error:
            if self._is_new:  # it is the one that the user wrote, and all would go wrong in silence
                raise
            return str(error)
        return _with_rows(layouts, numbers)

    def _numbers_of(self, batch: Sequence[Any]) -> list[int]:
        """Where rows stand among the adapter's."""
        strangers = [
            row for row in batch if not isinstance(row, Example) or row not in self._numbers
        ]
        if strangers:
            raise ValueError(
                f"{len(strangers)} rows are not among the adapter's, the first is "
                f"{quoted(strangers[0])}: make the adapter with the rows of training and validation"
            )
        return [self._numbers[row] for row in batch]

    def _run(self, requests: Sequence[RolloutRequest]) -> list[Rollout]:
        with memory_errors_explained(self.engine.lm.device):
            rollouts = self.engine.run(requests) if requests else []
        return [rollout for rollout in rollouts if rollout is not None]  # nothing is dropped here

    def _evaluated(
        self, layouts: Layouts, done: Sequence[tuple[Rollout, Rollout]]
    ) -> EvaluationBatch[Trajectory, str]:
        """What rollouts came to, each beside that which scored the gold answer."""
        rollouts = [rollout for rollout, _ in done]
        rows = record_rollouts(layouts, layouts.prompt_ids, rollouts, self.config).rows
        return EvaluationBatch(
            outputs=[row.predicted for row in rows],
            scores=[row.value for row in rows],
            trajectories=[
                Trajectory(
                    question=row.question,
                    reasoning=row.reasoning,
                    predicted=row.predicted,
                    gold=row.gold,
                    feedback=_feedback(row, self.config),
                )
                for row in rows
            ],
            objective_scores=[
                {"accuracy": row.value, "answer_logprob": -gold.answer_loss}
                for row, (_, gold) in zip(rows, done, strict=True)
            ],
        )


def _with_rows(layouts: Layouts, numbers: Sequence[int]) -> Layouts:
    return replace(layouts, rows=tuple(layouts.rows[number] for number in numbers))


def _gold_scored(
    request: RolloutRequest, rollout: Rollout, layouts: Layouts, row: int
) -> RolloutRequest:
    """The gold answer scored behind a reasoning that is there: nothing is generated again."""
    return RolloutRequest(
        prompt_ids=(*request.prompt_ids, *rollout.reasoning_ids),
        max_new_tokens=0,
        end_ids=frozenset(),
        target_ids=layouts.target_ids(row),
        num_scored=len(layouts.rows[row].answer_ids),
    )


def _refused(problem: str, batch: Sequence[Example]) -> EvaluationBatch[Trajectory, str]:
    """A text that cannot be the prompt: wrong on all rows, and the feedback says why."""
    feedback = f"This text cannot be used as the prompt: {problem}"
    return EvaluationBatch(
        outputs=["" for _ in batch],
        scores=[0.0 for _ in batch],
        trajectories=[Trajectory(row.question, "", "", row.answer, feedback) for row in batch],
        objective_scores=[{"accuracy": 0.0, "answer_logprob": _LEAST_LOGPROB} for _ in batch],
    )


def _feedback(row: RowRecord, config: Config) -> str:
    """What a reflection model is told of an answer."""
    if row.metric is not None:
        found = f"The answer is worth {row.metric:.2f} of 1; a right one is {row.gold}."
    elif row.correct:
        found = f"Right: the answer is {row.gold}."
    else:
        found = f"Wrong: the answer is {row.gold}, not {row.predicted or 'nothing'}."
    if row.cut_off:
        found += f" The reasoning was cut off at {config.max_new_tokens} tokens."
    return found
