"""Rows whose question lies deeper: chats, and questions that hold their options."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from greater_fast.examples.cutting import without_thought
from greater_fast.examples.loading.cells import as_list, passage_of
from greater_fast.examples.loading.columns import folded
from greater_fast.examples.loading.errors import bad_data
from greater_fast.examples.loading.rows import Row
from greater_fast.wording import quoted

_CHATS = ("messages", "conversations", "conversation")
_HALVES = ("prompt", "completion")  # of a chat; the first may be all that was asked
_ROLES, _TEXTS = ("role", "from"), ("content", "value")
_ANSWERING = ("assistant", "gpt", "model", "bot")
# Where a question holds its text, beside what belongs to it.
_QUESTION_TEXTS = ("stem", "text", "question", "content", "value")
# What stands for itself beside a chat: a prompt or a text is mostly that chat once more, and a
# label or a score says how good it is.
_QUESTIONS_BESIDE = ("question", "query", "problem", "goal", "instruction", "input")
_ANSWERS_BESIDE = (
    *("answer", "answers", "final_answer", "final_target", "target", "solution", "gold_answer"),
    *("expected_answer", "ground_truth", "correct_answer", "gold"),
)


def flat_rows(
    rows: Sequence[Row], name: str, columns: Mapping[str, str] | None = None
) -> tuple[Sequence[Row], tuple[str, ...]]:
    """The rows with question and answer in columns of their own; `columns` are those named.

    Behind them come notes on what was made one text.

    A chat's answer is the last message, the assistant's; what comes before it is the question. It
    is no answer where rows have one in a column of its own, and no question where they have both. A
    question with a stem and choices (the files of ARC and CommonsenseQA) becomes two columns.

    Raises:
        ValueError: a chat has no answer of an assistant at its end, or a message without a text.
    """
    if all(isinstance(row.get("question"), Mapping) for row in rows):
        rows = [_with_flat_question(row) for row in rows]
    named: Mapping[str, Any] = columns or {}
    given = {key: [folded(name)] for key, name in named.items() if isinstance(name, str)}
    keys: Iterable[Any] = itertools.chain.from_iterable(rows)
    spelled = {folded(key): key for key in keys if isinstance(key, str)}
    there = spelled.keys() - {*_CHATS}
    has_answer = not there.isdisjoint(given.get("answer", _ANSWERS_BESIDE))
    has_question = not there.isdisjoint(given.get("question", _QUESTIONS_BESIDE))
    is_open = not (named or has_answer or has_question)
    in_two = is_open and all(_is_chat(row.get(key), 1) for row in rows for key in _HALVES)
    if in_two:
        rows = [_with_whole_chat(row) for row in rows]
    least, asked = 1 if has_answer else 2, spelled.get(given.get("question", [""])[0], "")
    chats: Sequence[Any] = (*_CHATS, _HALVES[0]) if has_answer or in_two else _CHATS
    if has_question:
        is_chat = all(_is_chat(row.get(asked), least) for row in rows)
        if is_chat and (has_answer or all(_is_answered(row.get(asked)) for row in rows)):
            chats = [asked]
        elif has_answer:
            chats = ()
    notes: list[str] = []
    for column in chats:
        if all(_is_chat(row.get(column), least) for row in rows):
            notes += _notes([_list(row[column]) for row in rows], column)
            into = "question" if column != asked else column
            rows = [
                _of_chat(row, column, f"{quoted(column)} of row {number}", name, has_answer, into)
                for number, row in enumerate(rows, start=1)
            ]
    return rows, tuple(notes)


def _with_whole_chat(row: Row) -> Row:
    """The row with the messages of prompt and completion under the first one's name."""
    asked, answered = _HALVES
    others = {name: value for name, value in row.items() if name != answered}
    return {**others, asked: [*_list(row[asked]), *_list(row[answered])]}


def _notes(chats: Sequence[Sequence[Mapping[str, object]]], column: str) -> list[str]:
    """What became of messages that a model would have been sent as such."""
    asked = [[str(_first(turn, _ROLES)) for turn in chat if _first(turn, _TEXTS)] for chat in chats]
    asked = [own[:-1] if own and own[-1] in _ANSWERING else own for own in asked]
    notes = []
    if any("system" in own for own in asked):
        notes.append(
            f"system messages in {quoted(column)} stand at the beginning of the question: one "
            "for all rows, taken out of them, can be sent as such (system_prompt)"
        )
    if any(sum(role != "system" for role in own) > 1 for own in asked):
        notes.append(f"chats of several turns in {quoted(column)} became one question each")
    return notes


def _with_flat_question(row: Mapping[str, Any]) -> Row:
    """The row with the question's text, and what else the question holds beside it."""
    question = row["question"]
    key = next((key for key in _QUESTION_TEXTS if key in question), None)
    if key is None or question.keys() <= {"title", key}:
        return row  # a passage
    others = {name: value for name, value in question.items() if name != key}
    return {**others, **row, "question": question[key]}


def _is_chat(value: object, least: int) -> bool:
    turns = as_list(value)  # a data frame of parquet has arrays
    return (
        isinstance(turns, list)
        and len(turns) >= least
        and all(isinstance(turn, Mapping) and _first(turn, _ROLES) for turn in turns)
    )


def _is_answered(chat: object) -> bool:
    """Whether its last message is the assistant's."""
    return str(_first(_list(chat)[-1], _ROLES)) in _ANSWERING


def _of_chat(row: Row, column: str, place: str, name: str, has_answer: bool, into: str) -> Row:
    turns = [(str(_first(turn, _ROLES)), _first(turn, _TEXTS)) for turn in _list(row[column])]
    texts = [passage_of(text) for _, text in turns]
    if None in texts:
        got = f"a message without a text in column {place}"
        raise bad_data(name, got, "messages of text", "remove that row, or name other columns")
    roles = [role for role, _ in turns]
    # A thought of the assistant's was no part of what it answered.
    texts = [
        (role in _ANSWERING and without_thought(str(text)).strip()) or text
        for role, text in zip(roles, texts, strict=True)
    ]
    is_answered = roles[-1] in _ANSWERING
    if not is_answered and not has_answer:
        got = f"a chat that ends with {quoted(roles[-1])} in column {place}"
        raise bad_data(
            name, got, "the assistant's answer at the end", "complete or remove that row"
        )
    asked = texts[:-1] if is_answered else texts
    if sum(role != "system" for role in roles[: len(asked)]) > 1:
        asked = [f"{role.capitalize()}: {text}" for role, text in zip(roles, asked, strict=False)]
    others = {key: value for key, value in row.items() if key != column}
    answer = {} if has_answer else {"answer": texts[-1]}
    return {**others, into: "\n\n".join(filter(None, asked)), **answer}


def _list(value: object) -> Sequence[Mapping[str, object]]:
    turns = as_list(value)
    assert isinstance(turns, list)  # as _is_chat found
    return turns


def _first(turn: Mapping[str, object], keys: Sequence[str]) -> object:
    return next((turn[key] for key in keys if key in turn), None)
