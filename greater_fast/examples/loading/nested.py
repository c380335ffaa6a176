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
_CHATS_BESIDE_ANSWERS = (*_CHATS, "prompt")
_ROLES, _TEXTS = ("role", "from"), ("content", "value")
_ANSWERING = ("assistant", "gpt", "model", "bot")
# Where a question holds its text, beside what belongs to it.
_QUESTION_TEXTS = ("stem", "text", "question", "content", "value")
# What stands for itself beside a chat: a prompt or a text is mostly that chat once more, and a
# label or a score says how good it is.
_QUESTIONS_BESIDE = ("question", "query", "problem", "goal", "instruction", "input")
_ANSWERS_BESIDE = (
    *("answer", "answers", "final_answer", "final_target", "target", "solution", "gold_answer"),
    *("expected_answer", "ground_truth", "correct_answer"),
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
    there = {folded(key) for key in keys if isinstance(key, str)} - {*_CHATS}
    has_answer = not there.isdisjoint(given.get("answer", _ANSWERS_BESIDE))
    has_question = not there.isdisjoint(given.get("question", _QUESTIONS_BESIDE))
    notes: list[str] = []
    chats = _CHATS_BESIDE_ANSWERS if has_answer else _CHATS
    for column in () if has_question and has_answer else chats:
        if all(_is_chat(row.get(column), 1 if has_answer else 2) for row in rows):
            notes += _notes([_list(row[column]) for row in rows], column)
            rows = [
                _of_chat(row, column, f"{quoted(column)} of row {number}", name, has_answer)
                for number, row in enumerate(rows, start=1)
            ]
    return rows, tuple(notes)


def _notes(chats: Sequence[Sequence[Mapping[str, object]]], column: str) -> list[str]:
    """What became of messages that a model would have been sent as such."""
    roles = [[str(_first(turn, _ROLES)) for turn in chat] for chat in chats]
    asked = [own[:-1] if own[-1] in _ANSWERING else own for own in roles]
    notes = []
    if any("system" in own for own in asked):
        notes.append(
            f"system messages in {quoted(column)} stand at the beginning of the question: one "
            "for all rows can be sent as such (system_prompt)"
        )
    if any(sum(role != "system" for role in own) > 1 for own in asked):
        notes.append(f"chats of several turns in {quoted(column)} became one question: 'User: …'")
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


def _of_chat(row: Row, column: str, place: str, name: str, has_answer: bool) -> Row:
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
    return {**others, "question": "\n\n".join(filter(None, asked)), **answer}


def _list(value: object) -> Sequence[Mapping[str, object]]:
    turns = as_list(value)
    assert isinstance(turns, list)  # as _is_chat found
    return turns


def _first(turn: Mapping[str, object], keys: Sequence[str]) -> object:
    return next((turn[key] for key in keys if key in turn), None)
