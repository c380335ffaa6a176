"""What DSPy sends for a program's rows: asked of the program itself, and never built by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import dspy
from dspy import lm15
from dspy.adapters.utils import annotation_allows_none
from dspy.utils.callback import BaseCallback

from greater_fast.wording import listed, quoted

MARK = "\ue000prompt\ue000"
_RECORDED = ("temperature", "max_tokens", "stop")  # of an LM's settings, those of a search


class _SentError(BaseException):
    """Ends a program where the request is known: no handler of the program's own may go on."""

    def __init__(self, request: Any) -> None:
        super().__init__()
        self.request = request


class _Recorder:
    """An engine that tells of the request by an error, and answers none."""

    supports_function_calling = False
    supports_reasoning = False
    supports_response_schema = False

    def complete(self, request: Any) -> Any:
        raise _SentError(request)


class _AsyncRecorder:
    """The same for a program that awaits."""

    async def complete(self, request: Any) -> Any:
        raise _SentError(request)


class _Inputs(BaseCallback):
    """Keeps what a predictor is called with."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.given = inputs["kwargs"]


class Sent(NamedTuple):
    """A row's `dspy.lm15.Request`: with the program's own prompt, and with `MARK` in its place."""

    own: Any
    marked: Any


class NotAskedError(ValueError):
    """A program answers a row without asking the predictor that is searched."""


@dataclass(frozen=True, slots=True)
class Target:
    """The predictor of a program whose instructions are searched.

    The last line of its instructions is the `prompt`, which changes; `fixed` is what stands before
    it. `answer` is the output field that has a gold value.
    """

    student: Any
    name: str
    answer: str
    fixed: str
    prompt: str

    @classmethod
    def of(cls, student: Any, predictor: str | None, answer: str | None) -> Target:
        """That of a program; errors of `predictor` and `answer` are ValueErrors."""
        known = dict(student.named_predictors())
        if predictor is None and len(known) != 1:
            raise ValueError(
                f"predictor: the program has {len(known)} that can be changed "
                f"({listed(known)}): name one of them by predictor="
            )
        if predictor is not None and predictor not in known:
            raise ValueError(f"predictor: got {quoted(predictor)}, expected one of {listed(known)}")
        name = predictor or next(iter(known))
        signature = known[name].signature
        outputs = list(signature.output_fields)
        if answer is not None and answer not in outputs:
            raise ValueError(
                f"answer_field: got {quoted(answer)}, but predictor {name} gives {listed(outputs)}"
            )
        lines = signature.instructions.splitlines(keepends=True) or [""]
        prompt = lines[-1].strip()
        if not prompt:
            raise ValueError(
                f"the instructions of predictor {name} have no last line to begin a search from: "
                "give the signature some, such as 'Think step by step.'"
            )
        fixed = signature.instructions.rstrip().removesuffix(prompt)
        return cls(student, name, answer or outputs[-1], fixed, prompt)

    @property
    def predictor(self) -> Any:
        """The program's own predictor of that name."""
        return dict(self.student.named_predictors())[self.name]

    @property
    def lm(self) -> Any:
        """The LM that the predictor asks."""
        return self.predictor.lm or dspy.settings.lm

    def with_prompt(self, prompt: str) -> Any:
        """A copy of the program, which differs in these instructions alone."""
        program = self.student.deepcopy()
        predictor = dict(program.named_predictors())[self.name]
        predictor.signature = predictor.signature.with_instructions(f"{self.fixed}{prompt}")
        return program

    def sent(self, rows: Sequence[Any]) -> list[Sent | None]:
        """What the predictor first sends on each row; None where a reply before it is unread.

        The program runs up to there, once a row: what comes before the predictor is computed as
        ever. Then the predictor alone is asked the same with the mark, so that the two requests
        differ in it alone, whatever in the program is random. (A program that calls its `forward`
        itself, of which callbacks are not told, runs again.)

        Raises:
            NotAskedError: the program ends without asking this predictor.
            ValueError: a row leaves a field of it without a value.
        """
        program, inputs = self.with_prompt(self.prompt), _Inputs()
        predictor = dict(program.named_predictors())[self.name]
        own, marked = (
            dict(each.named_predictors())[self.name].signature
            for each in (program, self.with_prompt(MARK))
        )
        settings = getattr(self.lm, "kwargs", {})
        predictor.lm = dspy.LM(
            self.lm.model,
            **{name: settings[name] for name in _RECORDED if settings.get(name) is not None},
            cache=False,
            engine=_Recorder(),
            async_engine=_AsyncRecorder(),
        )
        predictor.callbacks = [*predictor.callbacks, inputs]
        found: list[Sent | None] = []
        for number, row in enumerate(rows):
            predictor.signature, inputs.given = own, {}
            try:
                request = _request(program, row.inputs())
            except dspy.AdapterParseError:  # as of a small model, sampled or not
                found.append(None)
                continue
            if request is None:
                raise NotAskedError(
                    f"predictor: the program answers row {number} "
                    f"({quoted(str(row.toDict()), 60)}) without asking {self.name}: leave out such "
                    "rows, or name another predictor"
                )
            missing = [
                name
                for name, field in own.input_fields.items()
                if name not in inputs.given
                and field.is_required()  # DSPy fills in a default
                and not annotation_allows_none(field.annotation)  # and may leave these out
            ]
            if inputs.given and missing:
                raise ValueError(
                    f"row {number} ({quoted(str(row.toDict()), 60)}) leaves {listed(missing)} of "
                    f"predictor {self.name} without a value: name the rows' fields as the "
                    "signature's inputs, and give them by with_inputs"
                )
            predictor.signature = marked
            again = (predictor, inputs.given) if inputs.given else (program, row.inputs())
            try:
                found.append(Sent(request, _request(*again)))
            except dspy.AdapterParseError:
                found.append(None)
        return found


def _request(module: Any, inputs: Mapping[str, Any]) -> Any:
    """What a recorder is sent where a module is called; None where it is not asked."""
    try:
        module(**inputs)
    except _SentError as sent:
        return sent.request
    return None


def check_served(lm: Any, request: Any, num_ids: int) -> list[str]:
    """Ask a served LM how many tokens it reads in a request; notes on what is not as in a search.

    Raises:
        ValueError: it reads another number than our ids are.
    """
    notes = []
    if request.config.temperature != 0:
        notes.append(
            f"{lm.model} is asked at temperature {request.config.temperature} (None is the "
            "server's own), and the search is greedy: temperature=0.0 has the same replies"
        )
    config = lm15.Config(max_tokens=1, temperature=0.0)
    asked = lm15.Request(
        model=lm.model, messages=request.messages, system=request.system, config=config
    )
    found = lm(asked, cache=False).usage.input_tokens
    if found is None:
        notes.append(f"{lm.model} does not say how many tokens it reads: this was not checked")
    elif found != num_ids:
        raise ValueError(
            f"{lm.model} reads {found} tokens in a conversation that is {num_ids} tokens of the "
            "model that is searched with: it has another chat template or tokenizer, or puts a BOS "
            "before the template's own; serve the same model, with the same template"
        )
    return notes
