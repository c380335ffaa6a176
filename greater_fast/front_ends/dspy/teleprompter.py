"""The teleprompter: a search for a predictor's instructions, judged by the program's own metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dspy.teleprompt import Teleprompter

from greater_fast.config import Config
from greater_fast.engine import Engine
from greater_fast.examples.layout import Layouts
from greater_fast.front_ends.dspy.engine import DECIDED, GreaterEngine
from greater_fast.front_ends.dspy.judging import ProgramJudge
from greater_fast.front_ends.dspy.rows import Reply, lay_out
from greater_fast.front_ends.dspy.sending import NotAskedError, Target, check_served
from greater_fast.front_ends.dspy.sets import RowSet, split
from greater_fast.front_ends.engines import can_search
from greater_fast.runs.input import check_mapping, check_settings
from greater_fast.search.checks import (
    check_callable,
    check_functions,
    check_stop_texts,
)
from greater_fast.search.found import Found, find_prompts
from greater_fast.search.judge import judged
from greater_fast.search.optimizer import OnStep
from greater_fast.wording import printable

_LMS_OWN = (
    *("chat_template_kwargs", "device", "dtype", "sampling_temperature", "template_date"),
    "tensor_parallel",
)


class GReaTer(Teleprompter):
    """Searches for the last line of a predictor's instructions by gradients through the reasoning.

    What is optimised is what DSPy sends, to the token: rows are the conversations that the program
    itself sends, the reasoning is what the model writes up to the answer's header. The best prompts
    then compete in the program, by `metric` on `valset`.

    Args:
        metric: of an example and a prediction, as of `dspy.Evaluate`; the more, the better.
        model: what `load_lm` takes, where the program's LM is not a `GreaterEngine`'s: the model
            that the served LM has.
        config: settings of the search by name; those not given are the LM's, `max_new_tokens` its
            `max_tokens`.
        predictor: the name, in `named_predictors()`, of the one to change; the only one by default.
        answer_field: the output field that rows have gold values of; by default the last.
        num_threads: of `dspy.Evaluate`; those that ask at the same time are one batch.
        on_step: called with every finished `Step`; a true value from it ends the search.

    After `compile`, `report` has the figures and `result` what `find_prompts` found.
    """

    def __init__(  # noqa: PLR0913 (settings of one object, all but the first by name)
        self,
        metric: Callable[..., Any],
        *,
        model: Any = None,
        config: Mapping[str, Any] | None = None,
        predictor: str | None = None,
        answer_field: str | None = None,
        num_threads: int | None = None,
        on_step: OnStep | None = None,
    ) -> None:
        super().__init__()
        check_callable("metric", metric, ("an example", "its prediction"))
        check_mapping(config)
        self.metric, self.model, self.config = metric, model, dict(config or {})
        self.predictor, self.answer_field = predictor, answer_field
        self.num_threads, self.on_step = num_threads, on_step
        self.report: dict[str, Any] = {}
        self.result: Found | None = None

    def compile(
        self,
        student: Any,
        *,
        trainset: Sequence[Any],
        teacher: Any = None,
        valset: Sequence[Any] | None = None,
    ) -> Any:
        """A copy of the student with the instructions that score best on the validation rows.

        Its `candidate_programs` are all that were scored there, best first. Of equals the student's
        own come first.

        Args:
            student: the program; it is not changed.
            trainset: rows to search on, at most `num_train` of them, none that the valset has too.
            teacher: none: what a right reasoning is the search finds out from the gold answers.
            valset: rows to judge on, all of them; by default some of the trainset, drawn with the
                seed and not searched on.

        Raises:
            ValueError: a program, rows, settings or an LM that cannot be searched with; says what
                to change, before any step.

        What program or metric raise on a row comes to the caller: mostly before any step, when the
        student is scored; where it comes afterwards, `result` has the prompts found, not judged.
        """
        self.report, self.result = {}, None
        if teacher is not None:
            raise ValueError("teacher: got one, but GReaTer learns from gold answers: leave it out")
        target = Target.of(student, self.predictor, self.answer_field)
        reply = Reply.of(target)
        local, config = self._local(target)
        train, val, notes = split(reply, trainset, valset, config)
        rows, config, more = self._laid_out(local, reply, train, config)
        val_rows, unmeasured = self._val_laid_out(local, reply, val, config)
        notes += [*more, *unmeasured]
        judge = ProgramJudge(target, val.rows, self.metric, self.num_threads)
        check_functions(self.on_step, None, config)
        check_stop_texts(rows.stop, config)
        judged(judge, [target.prompt])  # what fails in program or metric does before the search
        self.result = find_prompts(local.engine, rows, config, on_step=self.on_step)
        try:
            self.result = found = self.result.judged_by(judge)
        except BaseException as error:
            prompt = printable(self.result.best.prompt)
            error.add_note(f"the best prompt by its loss, of those in `result`: {prompt}")
            raise
        programs = [target.with_prompt(prompt.prompt) for prompt in found.prompts]
        best = target.with_prompt(found.best.prompt)
        best.candidate_programs = [
            {"score": prompt.judged, "program": program}
            for prompt, program in zip(found.prompts, programs, strict=True)
        ]
        self.report = {
            "initial_prompt": found.initial.prompt,
            "prompt": found.best.prompt,
            "initial_score": found.initial.judged,
            "score": found.best.judged,
            "initial_forced_accuracy": _forced(local, val_rows, found.initial.prompt, config),
            "forced_accuracy": _forced(local, val_rows, found.best.prompt, config),
            "initial_num_unread": judge.num_unread[found.initial.prompt],
            "num_unread": judge.num_unread[found.best.prompt],
            "num_train": len(rows),
            "num_val": len(val.rows),
            "num_steps": found.num_steps,
            "stopped": found.stopped,
            "notes": notes,
        }
        return best

    def prepare(self, student: Any, trainset: Sequence[Any]) -> tuple[Engine, Layouts, Config]:
        """What a search takes, for one of one's own: the engine, all rows laid out, the settings.

        `find_prompts` takes them, and a proposer of GEPA. The prompt is the student's instructions;
        `report` has the notes.

        Raises:
            ValueError: as of `compile`, or the instructions have several lines: a prompt that is
                found for the last does not say what stands before it.
        """
        target = Target.of(student, self.predictor, self.answer_field)
        if target.fixed:
            raise ValueError(
                f"the instructions of predictor {target.name} have several lines, expected one, "
                "all of which is the prompt: write them on one line"
            )
        reply = Reply.of(target)
        local, config = self._local(target)
        train = RowSet.read(reply, trainset, "trainset")
        if not train.rows:
            raise ValueError("trainset: got no rows, expected some to search on")
        rows, config, notes = self._laid_out(local, reply, train, config)
        if len(rows) > self.config.get("num_train", len(rows)):
            notes.append(f"num_train: without effect: all {len(rows)} rows are laid out")
        self.report = {"num_train": len(rows), "notes": notes}
        return local.engine, rows, config

    def _laid_out(
        self, local: GreaterEngine, reply: Reply, train: RowSet, config: Config
    ) -> tuple[Layouts, Config, list[str]]:
        """The rows to search on, the settings with the limit of the LM, and notes."""
        reply.check_golds(train.rows, train.examples)
        found = zip(reply.target.sent(train.rows), train.examples, strict=True)
        asked = [(own, example) for own, example in found if own is not None]
        unread = f"a reply before {reply.target.name} could not be read"
        if not asked:
            raise ValueError(f"trainset: on each of its {len(train.rows)} rows {unread}")
        sent, examples = map(list, zip(*asked, strict=True))
        first = sent[0].own
        if "max_new_tokens" not in self.config and first.config.max_tokens:
            config = replace(config, max_new_tokens=first.config.max_tokens)
        rows = lay_out(local, reply, sent, examples, config)
        notes = [*rows.notes, *_notes(reply, rows)]
        if num_unread := len(train.rows) - len(asked):
            notes.append(f"trainset: {num_unread} rows are left out, for {unread}")
        if self.model is not None:
            notes += check_served(reply.target.lm, first, len(local.ids(first)))
        return rows, config, notes

    def _val_laid_out(
        self, local: GreaterEngine, reply: Reply, val: RowSet, config: Config
    ) -> tuple[Layouts | None, list[str]]:
        """The validation rows for `forced_accuracy`, where they have gold answers, and notes.

        It is a figure beside the score: rows that the search could not take end nothing here.
        """
        if not all(example.answer for example in val.examples):
            return None, []
        unmeasured = "forced_accuracy: not measured: "
        try:
            sent = reply.target.sent(val.rows)
        except NotAskedError as error:
            return None, [f"{unmeasured}{error}"]
        asked = [own for own in sent if own is not None]
        if len(asked) < len(sent):
            num_unread = len(sent) - len(asked)
            unread = f"a reply before {reply.target.name} could not be read on {num_unread} rows"
            return None, [f"{unmeasured}{unread}"]
        try:
            rows = lay_out(local, reply, asked, val.examples, config)
        except ValueError as error:
            return None, [f"{unmeasured}{error}"]
        num_left_out = len(val.rows) - len(rows)
        without = f"forced_accuracy: without {num_left_out} rows that are too long"
        return rows, [without] if num_left_out else []

    def _local(self, target: Target) -> tuple[GreaterEngine, Config]:
        """The model that is searched with, and the settings."""
        check_settings(self.config, DECIDED)
        if self.model is not None:
            if target.lm is None:
                raise ValueError("no LM is configured: dspy.configure(lm=...), or set_lm")
            served = GreaterEngine(self.model, self.config)
            return served, served.config
        local = getattr(target.lm, "engine", None)  # that of a `dspy.LM`
        if not isinstance(local, GreaterEngine):
            raise ValueError(
                "GReaTer needs the weights: configure an LM made by local_lm, or name the model "
                "that is served by model="
            )
        config = Config.from_mapping({**local.config.to_dict(), **self.config})
        for name in _LMS_OWN:
            if getattr(config, name) != getattr(local.config, name):
                raise ValueError(f"config: {name} is the LM's: give it to local_lm(config=...)")
        if not can_search(local.engine, local.config, config):
            local = GreaterEngine(local.lm, config)  # of the same weights
        return local, config


def _notes(reply: Reply, rows: Layouts) -> list[str]:
    """What a user should know of how the program asks."""
    notes = []
    if len({row.head_ids for row in rows.rows}) == 1:
        notes.append(
            "the instructions stand before the inputs, so what the model proposes for them knows "
            "nothing of these: the adapter InstructionLast puts them behind"
        )
    if reply.is_first:
        notes.append(
            f"no field comes before {reply.target.answer}, so the model is to answer without any "
            "reasoning: dspy.ChainOfThought gives it some"
        )
    if getattr(reply.adapter, "use_json_adapter_fallback", False):
        notes.append(
            "where a reply cannot be read, the adapter asks again by JSONAdapter, with other "
            "messages than those searched on: use_json_adapter_fallback=False switches that off"
        )
    return notes


def _forced(
    local: GreaterEngine, rows: Layouts | None, prompt: str, config: Config
) -> float | None:
    """Percent of validation rows that are right where the header is written for the model.

    Beside the metric's score it tells replies without a header from wrong answers. None without
    labels, and where the prompt has other tokens beside one of these rows than it was found with.
    """
    if rows is None:
        return None
    try:
        given = rows.with_prompt(prompt)
    except ValueError:
        return None
    scored = find_prompts(local.engine, given, replace(config, steps=0, minutes=None))
    return round(100 * (1 - scored.initial.error_rate), 2)
