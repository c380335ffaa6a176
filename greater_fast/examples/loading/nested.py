"""Rows whose question lies deeper: chats, and questions that hold their options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from greater_fast.examples.loading.cells import text_of
from greater_fast.examples.loading.errors import bad_data
from greater_fast.examples.loading.rows import Row
from greater_fast.wording import quoted

_CHATS = ("messages", "conversations", "conversation")
_ROLES, _TEXTS = ("role", "from"), ("content", "value")
_ANSWERING = ("assistant", "gpt", "model", "bot")


def flat_rows(rows: Sequence[Row], name: str) -> Sequence[Row]:
    """The rows with question and answer in columns of their own.

    A chat's answer is the last message, the assistant's; what comes before it is the question. A
    question with a stem and choices (the files of ARC and CommonsenseQA) becomes two columns.

    Raises:
        ValueError: a chat does not end with the assistant.
    """
    if all(isinstance(row.get("question"), Mapping) for row in rows):
        rows = [_with_flat_question(row) for row in rows]
    for column in _CHATS:
        if all(_is_chat(row.get(column)) for row in rows):
            rows = [_of_chat(row, column, number, name) for number, row in enumerate(rows, start=1)]
    return rows


def _with_flat_question(row: Mapping[str, Any]) -> Row:
    """The row with the stem as its question, and what else the question holds beside it."""
    if "stem" not in row["question"]:
        return row
    others = {key: value for key, value in row["question"].items() if key != "stem"}
    return {**row, **others, "question": row["question"]["stem"]}


def _is_chat(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 1
        and all(isinstance(turn, Mapping) and _first(turn, _ROLES) for turn in value)
    )


def _of_chat(row: Row, column: str, number: int, name: str) -> Row:
    turns = [(str(_first(turn, _ROLES)), _first(turn, _TEXTS)) for turn in _list(row[column])]
    texts = [text_of(text) or "" for _, text in turns]
    roles = [role for role, _ in turns]
    if roles[-1] not in _ANSWERING:
        got = (
            f"a chat that ends with {quoted(roles[-1])} in column {quoted(column)} of row {number}"
        )
        raise bad_data(
            name, got, "the assistant's answer at the end", "complete or remove that row"
        )
    asked = texts[:-1]
    if sum(role != "system" for role in roles[:-1]) > 1:
        asked = [f"{role.capitalize()}: {text}" for role, text in zip(roles, asked, strict=False)]
    others = {key: value for key, value in row.items() if key != column}
    return {**others, "question": "\n\n".join(asked), "answer": texts[-1]}


def _list(value: object) -> Sequence[Mapping[str, object]]:
    assert isinstance(value, list)  # as _is_chat found
    return value


def _first(turn: Mapping[str, object], keys: Sequence[str]) -> object:
    return next((turn[key] for key in keys if key in turn), None)
