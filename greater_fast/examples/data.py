"""Examples: the rows that a prompt is optimised and measured on."""

import numbers
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from greater_fast.examples.readers import Row, bad_data, read_rows, source_name

Source = str | PathLike[str] | Mapping[str, Any] | Iterable[Any]

# In order of preference. A `prompt` column beside them (GreaterPrompt) holds the initial prompt,
# which is no part of the question: it is not read, nor is any other column.
COLUMN_SETS = (("question", "answer"), ("goal", "final_target"), ("input", "target"))

_CHOICE_LETTER = re.compile(r"\(\s*([A-Za-z])\s*\)")
_FINAL_ANSWER_MARK = "####"
_NUM_ROWS_NAMED = 5


@dataclass(frozen=True, slots=True)
class Example:
    """One row: the question as the model reads it, and the gold answer, which the search scores.

    An answer in `other_answers` is as right as the gold one where answers are compared.
    """

    question: str
    answer: str
    other_answers: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """All gold answers, the first before the others."""
        return (self.answer, *self.other_answers)


def load_examples(source: Source, columns: Mapping[str, str] | None = None) -> list[Example]:
    """Read examples from rows, a `datasets.Dataset`, a data file or a hub dataset (`read_rows`).

    Columns are found by name whatever their case (`COLUMN_SETS`), or named by the user as
    `{"question": column, "answer": column}`. A GSM8K answer is cut to what follows its last "####",
    a whole answer "(A)" becomes "A", numbers and truth values become text, every line end becomes a
    newline, and outer white space goes. Raises ValueError for unreadable data, missing columns, and
    empty questions or answers.
    """
    if columns is not None:
        _check_columns_argument(columns)
    name = source_name(source)
    rows = read_rows(_without_examples(source, columns or {}))
    question, answer = _choose_columns(rows, columns, name)
    questions = _texts(rows, question, name)
    answers = [_final_answer(text) for text in _texts(rows, answer, name)]
    _check_not_empty(questions, f"questions (column {question!r})", name)
    _check_not_empty(answers, f"answers (column {answer!r})", name)
    return [Example(*texts) for texts in zip(questions, answers, strict=True)]


def _check_columns_argument(columns: Mapping[str, str]) -> None:
    if not columns or not set(columns) <= {"question", "answer"}:
        raise bad_data(
            "columns",
            f"the keys {list(columns)}",
            "'question' and 'answer'",
            "pass columns={'question': 'name of a column', 'answer': 'name of a column'}",
        )


def _without_examples(source: Source, columns: Mapping[str, str]) -> Source:
    """Turn each Example among the rows into a row; leave all other kinds of source alone."""
    if isinstance(source, str) or not isinstance(source, Sequence | Iterator):
        return source
    names = [columns.get(key, key) for key in ("question", "answer")]
    return [
        dict(zip(names, (row.question, row.answer), strict=True))
        if isinstance(row, Example)
        else row
        for row in source
    ]


def _choose_columns(
    rows: Sequence[Row], columns: Mapping[str, str] | None, name: str
) -> tuple[str, str]:
    """The names of the question's and the answer's column, as they are spelled in the rows."""
    found = list(dict.fromkeys(column for row in rows for column in row))
    column_sets: Sequence[tuple[str, str]] = COLUMN_SETS
    if columns is not None:
        column_sets = [(columns.get("question", "question"), columns.get("answer", "answer"))]
    for wanted in column_sets:
        question, answer = (_find_column(column, found, name) for column in wanted)
        if question is not None and answer is not None:
            return question, answer
    raise bad_data(
        name,
        f"the columns {', '.join(map(_shortened, found)) or '(none)'}",
        " or ".join("/".join(wanted) for wanted in column_sets),
        "rename them, or pass columns={'question': …, 'answer': …}",
    )


def _find_column(wanted: str, found: Sequence[str], name: str) -> str | None:
    if wanted in found:
        return wanted
    matches = [column for column in found if str(column).casefold() == wanted.casefold()]
    if len(matches) > 1:
        raise bad_data(
            name,
            f"the columns {', '.join(matches)}, which differ in case alone",
            "one of them",
            "pass columns={'question': …, 'answer': …} with the exact names",
        )
    return matches[0] if matches else None


def _shortened(column: object) -> str:
    text = str(column)
    return text if len(text) <= 60 else text[:59] + "…"


def _texts(rows: Sequence[Row], column: str, name: str) -> list[str]:
    """The column as text; a missing value is ""."""
    texts = []
    for number, row in enumerate(rows, start=1):
        value = row.get(column)
        text = _text(value)
        place = f"in column {column!r} of row {number}"
        if text is None:
            raise bad_data(
                name,
                f"{type(value).__name__} {place}",
                "text, a number or a truth value",
                "name another column, or make it text",
            )
        if any("\ud800" <= character <= "\udfff" for character in text):
            got = f"half a surrogate pair {place}"
            raise bad_data(name, got, "Unicode text", "correct that row")
        texts.append(text)
    return texts


def _text(value: object) -> str | None:
    """Text of a cell; "" where it is missing, None where it is not of a kind that has a text."""
    if value is None or (isinstance(value, numbers.Number) and value != value):
        return ""  # NaN, alone in not being equal to itself, is how pandas writes a missing cell
    if isinstance(value, str):
        return value.replace("\r\n", "\n").replace("\r", "\n").strip()
    # numpy's truth value is no Number, and not worth an import
    if isinstance(value, numbers.Number) or type(value).__name__ in ("bool", "bool_"):
        return str(value)
    return None


def _final_answer(text: str) -> str:
    """Cut a GSM8K solution to its final answer, and take the brackets off a choice letter."""
    text = text.rpartition(_FINAL_ANSWER_MARK)[2].strip()
    letter = _CHOICE_LETTER.fullmatch(text)
    return letter[1] if letter else text


def _check_not_empty(texts: Sequence[str], what: str, name: str) -> None:
    empty = [number for number, text in enumerate(texts, start=1) if not text]
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
