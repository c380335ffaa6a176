"""`evaluate_endpoint`: `evaluate`, where a server generates."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Protocol

from greater_fast.config import Config
from greater_fast.examples.data import Example, load_examples
from greater_fast.examples.extractor import Extractor
from greater_fast.examples.golds import describe_changes, in_one_form, spellings
from greater_fast.examples.layout import build_layouts
from greater_fast.examples.loading.languages import language_note
from greater_fast.examples.metrics import Metric, measured_value, name_of_metric, named_metric
from greater_fast.examples.rendering import name_of
from greater_fast.front_ends.endpoint.chat import Chat
from greater_fast.front_ends.endpoint.client import Client
from greater_fast.front_ends.endpoint.completions import Completions
from greater_fast.front_ends.endpoint.record import Record, digest
from greater_fast.front_ends.endpoint.replies import Answered
from greater_fast.front_ends.endpoint.server import Server
from greater_fast.front_ends.endpoint.threads import in_threads
from greater_fast.front_ends.endpoint.wire import agreed
from greater_fast.memory.outline import outline_with_ends
from greater_fast.runs.evaluation import (
    Evaluation,
    RowRecord,
    compare,
    cut_off_notes,
    row_record,
)
from greater_fast.runs.input import checking_input, for_evaluation, notes_on_texts, with_metric
from greater_fast.runs.interrupts import signals_heard
from greater_fast.runs.prepare import as_config, check_prompt, choose_extractor
from greater_fast.runs.progress import Teller, told
from greater_fast.runs.result import Report
from greater_fast.wording import quoted

# Settings of an evaluation that say how a model is run here.
_OF_OUR_ENGINE = (
    *("engine", "kernels", "kv_cache_bytes", "max_step_tokens", "draft_tokens", "batch_size"),
    *("device", "dtype", "tensor_parallel", "seed"),
)
_OF_A_LAYOUT = ("max_prompt_tokens", "on_long")  # tokens are not known by chat


class Conversation(Protocol):
    """A prompt on rows, as a server is asked for them."""

    examples: tuple[Example, ...]
    prompt: str
    extractor: Extractor
    notes: tuple[str, ...]

    def asked(self, row: int) -> dict[str, Any]:
        """All that the server is asked for a row."""

    def answered(self, row: int) -> Answered:
        """A row's reasoning and answer."""


def evaluate_endpoint(  # noqa: PLR0913 (as `evaluate`)
    server: Server,
    data: Any,
    *,
    prompt: str,
    against: str | None = None,
    tokenizer: Any = None,
    config: Config | Mapping[str, Any] | None = None,
    records: str | os.PathLike[str] | None = None,
    metric: Metric | str | None = None,
    progress: bool = True,
) -> Report:
    """Accuracy of a prompt with a served model, and beside another prompt's on the same rows.

    Args:
        server: the server, and how it is asked.
        data: what `load_examples` takes.
        prompt: the prompt to measure.
        against: a second prompt for a paired comparison.
        tokenizer: a folder, hub name or GGUF file with configuration and tokenizer of the model
            that is served (its weights are not read), or an `LM`. Rows are then asked in its
            layout, as token ids where the server takes them, reasoning first, then the answer
            behind the extractor; and what the server's own chat template makes of a row is held
            against it where the server says. Without a tokenizer rows are asked by chat, which is
            not the same layout, as a note says.
        config: settings; generation is greedy.
        records: a JSONL file for the rows, each written as it ends. One that is there already is
            gone on with: rows of which the same was asked, of this server and model, are taken.
        metric: what an answer is worth, as of `optimize`; the accuracy is then its mean.
        progress: tell on standard error what is done, and when the server is asked again.

    Raises:
        ValueError: input that cannot work; a server that does not take such rows, or reads them in
            another way, before any row is asked for; a row that it fails at, with the row's name,
            once rows under way have ended. Those that ended are in `records`.
    """
    with signals_heard():
        with checking_input():
            given, idle = for_evaluation(with_metric(as_config(config), metric))
            _check_greedy(given)
            prompts = [prompt] if against is None else [prompt, against]
            for text in prompts:
                check_prompt(text)
            client = Client(server)
            rows = load_examples(data, template=given.template)
            examples = in_one_form(rows, spellings(gold for row in rows for gold in row.answers))
            extractor = choose_extractor(given, examples)
            measure = metric if callable(metric) else named_metric(given.metric, examples)
            record = Record(records)
        with record:
            with told(progress) as teller, checking_input():
                client.tell = teller.keep
                asked = _conversations(client, examples, prompts, tokenizer, extractor, given)
            num_rows = sum(len(conversation.examples) for conversation in asked)
            with told(progress, num_rows=num_rows) as teller:
                client.tell = teller.keep
                runs = [_Run(own, client, record, measure, teller) for own in asked]
                for run in runs:
                    run.ask()
    evaluations = [run.evaluation() for run in runs]
    measuring = () if measure is None else (f"answers are measured by: {name_of_metric(measure)}",)
    notes = (
        *rows.notes,
        *notes_on_texts(prompts, given),
        *describe_changes(rows, examples),
        *((asked[0].extractor.describe(),) if asked[0].extractor.joint else ()),
        *language_note(asked[0].extractor, examples),
        *measuring,
        *dict.fromkeys(note for conversation in asked for note in conversation.notes),
        *idle,
        *_idle_here(given, by_chat=tokenizer is None),
        *_notes_of(server, record, runs),
        *(
            line
            for number, evaluation in enumerate(evaluations, 1)
            for line in cut_off_notes(
                f"rows, prompt {number}", evaluation.num_cut_off, len(evaluation.rows), given
            )
        ),
    )
    second = evaluations[1] if against is not None else None
    comparison = compare(evaluations[0], second) if second else None
    return Report(evaluations[0], second, comparison, extractor.in_config(), notes)


class _Run:
    """One prompt's rows, those that are known and those that are still to be asked for."""

    def __init__(
        self,
        conversation: Conversation,
        client: Client,
        record: Record,
        metric: Metric | None,
        teller: Teller,
    ) -> None:
        self._conversation, self._client, self._record = conversation, client, record
        self._metric, self._teller = metric, teller
        self._rows: dict[int, RowRecord] = {}
        self._keys = [self._key(row) for row in range(len(conversation.examples))]
        self.num_known = self.num_inexact = self.num_unchecked = 0
        self.num_empty = self.num_answers_cut_off = 0

    def ask(self) -> None:
        """Take the known rows, and ask for the others."""
        examples = self._conversation.examples
        self._teller.say(f"evaluating a prompt on {len(examples)} rows")
        for row, key in enumerate(self._keys):
            if (answered := self._record.known(key)) is not None:
                self.num_known += 1
                self._take(row, answered)
        missing = [row for row in range(len(examples)) if row not in self._rows]
        num_threads = self._client.server.num_concurrent
        in_threads(missing, self._answered, self._heard, num_threads, self._client.stop)

    def evaluation(self) -> Evaluation:
        """What all rows came to."""
        rows = tuple(self._rows[row] for row in range(len(self._rows)))
        return Evaluation(self._conversation.prompt, rows, name_of_metric(self._metric))

    def _key(self, row: int) -> str:
        server = self._client.server
        asked = self._conversation.asked(row)
        return digest({"url": server.url, "model": server.model, **asked})

    def _answered(self, row: int) -> Answered:
        try:
            return self._conversation.answered(row)
        except ValueError as error:
            name = name_of(self._conversation.examples, row)
            raise ValueError(f"{name}: {error}") from error

    def _heard(self, row: int, answered: Answered) -> None:
        try:
            self._take(row, answered)
        finally:  # what the server was asked for is kept, whatever the metric makes of it
            prompt = self._conversation.prompt
            self._record.append(self._keys[row], prompt, row, self._rows.get(row), answered)

    def _take(self, row: int, answered: Answered) -> None:
        examples = self._conversation.examples
        predicted = self._conversation.extractor.cut(answered.answer)
        value = None
        if self._metric is not None:
            name = name_of(examples, row)
            value = measured_value(self._metric, predicted, examples[row], name)
        self._rows[row] = row_record(
            examples[row], predicted, answered.reasoning, cut_off=answered.cut_off, metric=value
        )
        self.num_inexact += answered.exact is False
        self.num_unchecked += answered.exact is None
        self.num_empty += answered.flaw == "empty"
        self.num_answers_cut_off += answered.flaw == "cut off"
        self._teller.row()


def _conversations(
    client: Client,
    examples: Sequence[Example],
    prompts: Sequence[str],
    tokenizer: Any,
    extractor: Extractor,
    config: Config,
) -> list[Conversation]:
    """Each prompt on the rows, in the tokenizer's layout or by chat."""
    if tokenizer is None:
        return [Chat(client, examples, prompt, extractor, config) for prompt in prompts]
    lm = outline_with_ends(tokenizer, "cpu")
    laid_out = [build_layouts(lm, examples, prompt, extractor, config) for prompt in prompts]
    wire = agreed(client, lm, laid_out[0])
    return [Completions(client, wire, lm, layouts, config) for layouts in laid_out]


def _check_greedy(config: Config) -> None:
    if config.sampling_temperature > 0:
        raise ValueError(
            f"sampling_temperature: got {config.sampling_temperature}, expected 0: a served model "
            "is asked for the likeliest tokens, as each server draws in its own way"
        )


def _idle_here(config: Config, *, by_chat: bool) -> tuple[str, ...]:
    """A line on settings of our own engine, and by chat of rows that are laid out."""
    default = {f.name: f.default for f in fields(config)}
    names = (*_OF_OUR_ENGINE, *(_OF_A_LAYOUT if by_chat else ()))
    idle = [name for name in names if getattr(config, name) != default[name]]
    return (f"{' and '.join(idle)}: without effect on a served model",) if idle else ()


def _notes_of(server: Server, record: Record, runs: Sequence[_Run]) -> tuple[str, ...]:
    """What is to be said of how the rows were come by."""
    num_known, num_inexact, num_unchecked, num_empty, num_answers_cut_off = (
        sum(getattr(run, f"num_{name}") for run in runs)
        for name in ("known", "inexact", "unchecked", "empty", "answers_cut_off")
    )
    notes = []
    if num_known:  # an address and a name are all that is known of what was served
        notes.append(
            f"{num_known} rows were taken from the records, where the same was asked of "
            f"{quoted(server.model)} at this address: if other weights are served there by now, "
            "name another file (records, --records)"
        )
    if num_inexact:
        notes.append(
            f"of {num_inexact} rows the reasoning came back as text, and was read as other tokens "
            "than were generated: the answer follows these"
        )
    if num_unchecked:
        notes.append(
            f"of {num_unchecked} rows the reasoning came back as text, and the server does not "
            "count its tokens: that the answer follows those that were generated could not be "
            "checked"
        )
    if num_empty:
        notes.append(
            f"{num_empty} answers were empty, and count as wrong: the model only thought, or the "
            "server kept back what it said"
        )
    if num_answers_cut_off:
        notes.append(f"{num_answers_cut_off} answers were cut off at their token limit")
    if server.is_open and server.key_variable is not None:
        notes.append(f"the key went to {server.url} unencrypted: https keeps it from others")
    if record.problem:
        notes.append(record.problem)
    return tuple(notes)
