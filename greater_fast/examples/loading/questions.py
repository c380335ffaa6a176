"""Questions and gold answers out of rows whose columns are known."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import replace
from string import ascii_uppercase

from greater_fast.examples.loading.cells import golds_of, is_unicode, literal, passage_of, text_of
from greater_fast.examples.loading.choices import (
    NUMBER_READINGS,
    READINGS,
    Options,
    letters_of,
    read_options,
)
from greater_fast.examples.loading.columns import (
    LISTS_OF_ANSWERS,
    MANY_ANSWERS,
    NAME_THEM,
    ColumnNames,
    Columns,
    folded,
    option_mark,
)
from greater_fast.examples.loading.errors import bad_data
from greater_fast.examples.loading.rows import Row
from greater_fast.examples.loading.solutions import best_scored, final_answer
from greater_fast.examples.loading.template import OPTIONS_FIELD, default_template, parse_template
from greater_fast.examples.placeholders import empty_place_notes
from greater_fast.wording import listed, quoted

QuestionsAndGolds = tuple[list[str], list[tuple[str, ...]], tuple[str, ...], tuple[str, ...]]


def read_questions(
    rows: Sequence[Row], names: ColumnNames, columns: Columns, template: str | None
) -> QuestionsAndGolds:
    """Fill the template, or the one that the columns suggest, and read the gold answers.

    Behind them come notes, and readings (of `letters_of`). Where a question shows options, each
    gold answer becomes the letter of its option.

    Raises:
        ValueError: the template names no column or the answer's, a cell has no text, or an answer
            is none of its options.
    """
    columns = told_apart(rows, columns)
    golds = _golds(rows, columns, names.source)
    text = default_template(columns) if template is None else template
    sources = _sources(text, names, columns)
    options: list[Options] = []
    if None in sources.values() or _shows_each(sources, columns.options):
        options = _options(rows, columns, golds)
        if not options:  # no lists: they are part of the question as they are
            columns = replace(columns, after=(*columns.after, *columns.options), options=())
            text = default_template(columns) if template is None else template
            sources = _sources(text, names, columns)
    notes: list[str] = []
    readings: tuple[str, ...] = ()
    if template is None and text != "{question}":
        notes.append(f"each question is put together as {text!r} (see template)")
    if template is not None:
        notes += empty_place_notes("template", template, "write {name} for a column's text")
    if options:
        golds, readings = _as_letters(rows, columns, golds, options, names.source)
        doubt = f" ({readings[1]} would fit too)" if readings[1:] else ""
        notes.append(f"gold answers, read as {readings[0]}{doubt}, become letters of the options")
    cells = [
        [str(row) for row in options] if column is None else _texts(rows, column, names.source)
        for column in sources.values()
    ]
    parsed = parse_template(text)
    questions = [
        parsed.filled(dict(zip(sources, texts, strict=True))) for texts in zip(*cells, strict=True)
    ]
    for number, question in enumerate(questions, start=1):
        if not is_unicode(question):  # of the options, or of the template
            got = f"half a surrogate pair in the question of row {number}"
            raise bad_data(names.source, got, "Unicode text", "correct that row, or the template")
    if any(gold[1:] for gold in golds):
        if columns.more_answers:
            notes.append(f"any of the answers in {listed(columns.more_answers)} is right, too")
        else:
            notes.append(f"each answer of a list in {quoted(columns.answer)} is right")
    read = {columns.answer, *columns.more_answers, *sources.values()}
    if None in read:
        read |= {*columns.options, *columns.wrong}
    unread = [column for column in names.found if column not in read]
    if unread:
        notes.append(f"columns not read: {listed(unread)} (see template)")
    return questions, golds, tuple(notes), readings


def told_apart(rows: Sequence[Row], columns: Columns) -> Columns:
    """Columns whose names say too little, by what is in them.

    `answers` beside an answer are options where that is their number or letter, or by its own name
    the correct one of them, in all rows. A `text` that holds the question is the whole example.
    """
    many = _many_answers(columns)
    if many is not None and not columns.options:
        is_correct = "correct" in str(columns.answer).casefold()
        more = tuple(column for column in columns.more_answers if column != many)
        if all(_chooses(row.get(columns.answer), row.get(many), is_correct) for row in rows):
            columns = replace(columns, options=(many,), more_answers=more)
        elif columns.answer_is_named:
            columns = replace(columns, more_answers=more)
    before = tuple(column for column in columns.before if not _repeats(rows, column, columns))
    return replace(columns, before=before)


def _many_answers(columns: Columns) -> str | None:
    return next((c for c in columns.more_answers if folded(c) == MANY_ANSWERS), None)


def _chooses(answer: object, answers: object, is_correct: bool) -> bool:
    """Whether an answer is one of several in a list: its number, its letter, or itself."""
    options, text = read_options(answers), text_of(answer)
    if options is None or len(options.texts) < 2 or not text:
        return False
    if text in options.texts:
        return is_correct
    number = len(options.texts)
    return text.upper() in ascii_uppercase[:number] or text in map(str, range(number + 1))


def _repeats(rows: Sequence[Row], column: str, columns: Columns) -> bool:
    """Whether a column named `text` holds the question of each row, and its answer behind that."""
    if str(column).casefold() != "text" or columns.question is None:
        return False
    for row in rows:
        question, answer, text = (
            text_of(row.get(name)) for name in (columns.question, columns.answer, column)
        )
        if not question or not answer or answer not in (text or "").partition(question)[2]:
            return False
    return True


def _golds(rows: Sequence[Row], columns: Columns, name: str) -> list[tuple[str, ...]]:
    """All gold answers of each row, the one that counts in a search first."""
    every = []
    is_scored = folded(columns.answer) == "target_scores"
    for number, row in enumerate(rows, start=1):
        golds: list[str] = []
        for column in (columns.answer, *columns.more_answers):
            value = row.get(column)
            if isinstance(value, str) and folded(column) in LISTS_OF_ANSWERS:
                value = literal(value)
            texts = golds_of(best_scored(value) if is_scored else value)
            if texts is None or not all(map(is_unicode, texts)):
                raise _bad_cell(value, column, number, name)
            golds += map(final_answer, texts)
        every.append(tuple(dict.fromkeys(gold for gold in golds if gold)))
    return every


def _options(
    rows: Sequence[Row], columns: Columns, golds: Sequence[Sequence[str]]
) -> list[Options]:
    """The options of each row; none where there are none, or a row has them as a mere text."""
    if columns.wrong:
        return [
            # in alphabetical order, which does not tell the right one
            Options(
                tuple(
                    sorted({*gold[:1], *(text_of(row.get(c)) or "" for c in columns.wrong)} - {""})
                )
            )
            for row, gold in zip(rows, golds, strict=True)
        ]
    if len(columns.options) == 1:
        lists = [read_options(row.get(columns.options[0])) for row in rows]
        return [] if None in lists else [row for row in lists if row is not None]
    marks = [option_mark(column) for column in columns.options]
    every = []
    for row in rows if marks else ():
        texts = [text_of(row.get(column)) or "" for column in columns.options]
        while texts and not texts[-1]:
            texts.pop()
        every.append(Options(tuple(texts), tuple(marks[: len(texts)])))
    return every


def _as_letters(
    rows: Sequence[Row],
    columns: Columns,
    golds: Sequence[tuple[str, ...]],
    options: Sequence[Options],
    name: str,
) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Gold answers as letters of their options, and how they were read."""
    if columns.wrong:
        return letters_of([gold[:1] for gold in golds], options, ["texts"], name)
    marks = {str(column).casefold(): option_mark(column) for column in columns.options}
    if len(marks) > 1 and all(text.casefold() in marks for gold in golds for text in gold):
        golds = [tuple(marks[text.casefold()] for text in gold) for gold in golds]
        return letters_of(golds, options, ["labels"], name)
    values = [row.get(columns.answer) for row in rows]
    if all(isinstance(v, numbers.Number) and not isinstance(v, bool) for v in values):
        # the mark of an option's column is no label to a number: sol1 and sol2 are 0 and 1
        first = ["labels"] if len(columns.options) == 1 else []
        return letters_of(golds, options, [*first, *NUMBER_READINGS], name)
    return letters_of(golds, options, list(READINGS), name)


def _sources(text: str, names: ColumnNames, columns: Columns) -> dict[str, str | None]:
    """Which column each name in a template stands for, None for the options."""
    return {field: _column_of(field, names, columns) for field in parse_template(text).fields}


def _column_of(field: str, names: ColumnNames, columns: Columns) -> str | None:
    has_options = bool(columns.options or columns.wrong)
    if field.casefold() == "question" and columns.question is not None:
        return columns.question
    if field.casefold() == OPTIONS_FIELD and has_options:
        return None
    column = names.find(field)
    if column is None:
        raise bad_data(
            "template",
            f"{{{field}}}, where {names.source} has the columns {listed(names.found)}",
            "names of its columns",
            "pass a template for this data; {{ and }} stand for braces",
        )
    if column in (columns.answer, *columns.more_answers):
        advice = f"leave it out, or where that is none of answers {NAME_THEM}"
        raise bad_data("template", f"{{{field}}}", "no column of answers", advice)
    return None if (column,) == columns.options else column


def _shows_each(sources: Mapping[str, str | None], options: Sequence[str]) -> bool:
    return bool(options) and {*options} <= {*sources.values()}


def _texts(rows: Sequence[Row], column: str, name: str) -> list[str]:
    """A column as text; a missing value is ""."""
    texts = []
    for number, row in enumerate(rows, start=1):
        text = passage_of(row.get(column))
        if text is None or not is_unicode(text):
            raise _bad_cell(row.get(column), column, number, name)
        texts.append(text)
    return texts


def _bad_cell(value: object, column: str, number: int, name: str) -> ValueError:
    place = f"in column {quoted(column)} of row {number}"
    if passage_of(value) is not None:
        got, advice = f"half a surrogate pair {place}", "correct that row"
        return bad_data(name, got, "Unicode text", advice)
    return bad_data(
        name,
        f"{type(value).__name__} {place}",
        "text, a number or a truth value",
        "name another column, make it text, or pass a template without it",
    )
