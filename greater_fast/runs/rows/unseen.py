"""Rows that a run has not seen: those that a test of its prompt may be on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from greater_fast.examples.data import Examples
from greater_fast.examples.splits import question_key


def unseen(rows: Examples, seen: Iterable[Mapping[str, Any]]) -> Examples:
    """Rows that a run did not search or choose on; `seen` are lines of its `examples.jsonl`.

    White space in a question is no difference.

    Raises:
        ValueError: the run has seen all of them, or there is no telling which.
    """
    seen = list(seen)
    if not seen:
        raise ValueError(
            "the run's examples.jsonl is missing or empty: without it there is no telling which "
            "rows the run has seen; copy the whole folder"
        )
    used = {question_key(line["question"]) for line in seen if line["split"] != "test"}
    kept = [row for row in rows if question_key(row.question) not in used]
    if not kept:
        raise ValueError("the run has seen all of these rows: give it test rows")
    return rows.those(kept)
