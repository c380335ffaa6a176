"""Examples: the rows that a prompt is optimised and measured on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

from greater_fast.examples.loading.columns import ColumnNames, find_columns
from greater_fast.examples.loading.errors import bad_data, source_name
from greater_fast.examples.loading.nested import flat_rows
from greater_fast.examples.loading.questions import read_questions
from greater_fast.examples.readers import read_rows, take_rows
from greater_fast.wording import quoted

Source = str | PathLike[str] | Mapping[str, Any] | Iterable[Any]

_NUM_ROWS_NAMED = 5


@dataclass(frozen=True, slots=True)
class Example:
    """One row: the question as the model reads it, and the gold answer, which the search scores.

    An answer in `other_answers` is as right as the gold one where answers are compared.
    `answers_given` are all of them as the data has them, where the search asks for another form.
    `source` says where a row comes from that was read from a file or a hub dataset, as "row 17 of
    rows.jsonl" (the first is 1); nothing depends on it.
    """

    question: str
    answer: str
    other_answers: tuple[str, ...] = ()
    source: str = field(default="", compare=False, repr=False)
    answers_given: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def as_given(self) -> Example:
        """The row with its gold answers as the data has them."""
        if not self.answers_given:
            return self
        first, *others = self.answers_given
        return replace(self, answer=first, other_answers=tuple(others), answers_given=())

    @property
    def answers(self) -> tuple[str, ...]:
        """All gold answers, the first before the others."""
        return (self.answer, *self.other_answers)


class Examples(list[Example]):
    """Examples with notes on how they were read: what the questions hold, what was not read.

    `readings` say how gold answers became letters of options, and how else they could have;
    `columns` are those that the user named, `template` is what the questions were made by.
    """

    def __init__(
        self,
        examples: Iterable[Example],
        notes: Iterable[str] = (),
        readings: Iterable[str] = (),
        columns: Mapping[str, str] | None = None,
        template: str | None = None,
    ) -> None:
        super().__init__(examples)
        self.notes, self.readings = tuple(notes), tuple(readings)
        self.columns, self.template = dict(columns or {}), template

    def __getitem__(self, place: Any) -> Any:
        """An example; of a slice the examples, read as these were."""
        found = super().__getitem__(place)
        return self.those(found) if isinstance(place, slice) else found

    def those(self, examples: Iterable[Example], *notes: str) -> Examples:
        """Some of the examples, with more notes, and all else that is said of them."""
        about = (self.readings, self.columns, self.template)
        return Examples(examples, (*self.notes, *notes), *about)


def load_examples(
    source: Source, columns: Mapping[str, str] | None = None, template: str | None = None
) -> Examples:
    r"""Read examples from rows, a `datasets.Dataset`, a data file or a hub dataset (`read_rows`).

    Columns are found by name whatever their case, and whatever parts their words (`QUESTIONS`,
    `ANSWERS`), or named by the user as `{"question": column, "answer": column}`. What belongs to
    the question is put into it: passages, contexts, premises and instructions under their names,
    and options as "(A) …" below, where the answer, be it a letter, a label, a text or a number,
    becomes the letter. A template such as `"{passage}\n{question}"` says instead what the question
    is: `{name}` stands for a column, `{options}` for the options, and a paragraph whose columns are
    empty in a row is left out.

    The answer is cut to its last line from "####" on (GSM8K) or what its last `\boxed{}` holds
    (MATH), and "(A)" becomes "A"; a list has several gold answers, each of them right. Numbers and
    truth values become text, every line end becomes a newline, and outer white space goes. Examples
    among the rows are read as rows of these two columns. `notes` of the result say how questions
    were put together, and always which columns were not read. Their order is the rows', and the
    draws depend on it.

    Raises:
        ValueError: unreadable data, missing columns, an answer that is none of the options, empty
            questions or answers, or a template that names no column, or the answer's, or that
            comes too late: the rows are examples already, which were not made by it.
    """
    if columns is not None:
        _check_columns_argument(columns)
    name = source_name(source)
    given, sources = _without_examples(source, columns or {}, name)
    rows, notes = flat_rows(read_rows(given), name, columns)
    names = ColumnNames(dict.fromkeys(itertools.chain.from_iterable(rows)), name)
    made_by, late = template, None
    if sources:
        made_by = source.template if isinstance(source, Examples) else None
        late, template = _late_template(template, source, name), None
    found = find_columns(names, columns or {}, template)
    questions, golds, more_notes, readings = read_questions(rows, names, found, template)
    if late is not None:  # of examples nothing new is to be said
        more_notes = late
    _check_not_empty(questions, f"questions (column {quoted(found.question)})", name)
    _check_not_empty(golds, f"answers (column {quoted(found.answer)})", name)
    if isinstance(source, str | PathLike):
        sources = [f"row {number} of {name}" for number, _ in enumerate(questions, start=1)]
    triples = zip(questions, golds, sources or [""] * len(questions), strict=True)
    return Examples(
        (Example(text, gold[0], gold[1:], origin) for text, gold, origin in triples),
        (*getattr(source, "notes", ()), *notes, *more_notes),
        (*getattr(source, "readings", ()), *readings),
        columns or (source.columns if isinstance(source, Examples) else None),
        made_by,
    )


def has_columns(source: Source, columns: Mapping[str, str]) -> bool:
    """Whether there are the columns named, as columns are found; errors as of reading."""
    name = source_name(source)
    rows, _ = flat_rows(read_rows(source), name, columns)
    names = ColumnNames(dict.fromkeys(itertools.chain.from_iterable(rows)), name)
    return all(names.find(column) is not None for column in columns.values())


def _check_columns_argument(columns: Mapping[str, str]) -> None:
    if not columns or not set(columns) <= {"question", "answer"}:
        raise bad_data(
            "columns",
            f"the keys {quoted(list(columns))}",
            "'question' and 'answer'",
            "pass columns={'question': 'name of a column', 'answer': 'name of a column'}",
        )


def _late_template(template: str | None, source: Source, name: str) -> tuple[str, ...]:
    """A note that a template puts nothing together, where rows do not say what they were made by.

    Raises:
        ValueError: they do, and it was not this one.
    """
    if template is None or (isinstance(source, Examples) and source.template == template):
        return ()
    if not isinstance(source, Examples):
        return ("the rows are examples, whose questions are as they are: the template is not used",)
    raise bad_data(
        name,
        f"examples, whose questions are put together already, and the template {quoted(template)}",
        "rows of columns",
        "give the template to load_examples, or leave it out of the settings",
    )


def _without_examples(
    source: Source, columns: Mapping[str, str], name: str
) -> tuple[Source, list[str]]:
    """Turn each Example among the rows into a row; their sources if all rows were examples."""
    if isinstance(source, str) or not isinstance(source, Sequence | Iterator):
        return source, []
    rows = take_rows(source, name)
    question, answer = (columns.get(key, key) for key in ("question", "answer"))
    num_examples = sum(isinstance(row, Example) for row in rows)
    if num_examples == 0:
        return rows, []
    sources = [row.source for row in rows] if num_examples == len(rows) else []
    return [
        {question: row.question, answer: list(row.answers)} if isinstance(row, Example) else row
        for row in rows
    ], sources


def _check_not_empty(values: Sequence[Sequence[str]], what: str, name: str) -> None:
    empty = [number for number, value in enumerate(values, start=1) if not value]
    if not empty:
        return
    named = ", ".join(map(str, empty[:_NUM_ROWS_NAMED]))
    more = ", …" if len(empty) > _NUM_ROWS_NAMED else ""
    raise bad_data(
        name,
        f"{len(empty)} empty {what}, in rows {named}{more} (the first is 1)",
        "text in every row",
        "fill or remove these rows",
    )
