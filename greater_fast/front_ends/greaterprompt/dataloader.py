"""Rows as GreaterPrompt's users have them, each with the prompt that it starts from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from torch.utils.data import Dataset

from greater_fast.examples.data import Example
from greater_fast.front_ends.greaterprompt.settings import warn_of
from greater_fast.runs.prepare import check_prompt
from greater_fast.wording import in_one_line, listed, quoted

_FIELDS = ("question", "prompt", "answer")


class GreaterDataloader(Dataset[dict[str, Any]]):
    """Rows with a question, a prompt to start from, and an answer: given, or of a JSONL file.

    Rows of a file stay as they are; of rows that are given, these three are kept, and their id.

    Raises:
        ValueError: neither or both are given, there are no rows, a line is no JSON object, or a row
            lacks one of the three.
    """

    def __init__(
        self,
        custom_inputs: Sequence[Mapping[str, Any]] | None = None,
        data_path: str | os.PathLike[str] | None = None,
        **others: object,
    ) -> None:
        warn_of("GreaterDataloader", others)
        if (custom_inputs is None) == (data_path is None):
            raise ValueError("GreaterDataloader: expected one of custom_inputs and data_path")
        if isinstance(custom_inputs, str | bytes):
            raise ValueError(
                f"custom_inputs: got {quoted(custom_inputs)}, expected rows: the name of a file is "
                "data_path"
            )
        self.items: list[dict[str, Any]] = []
        if data_path is not None:
            self.items = _read_lines(Path(data_path))
        for number, row in enumerate(custom_inputs or ()):
            _check_row(row, f"row {number} of custom_inputs")
            kept = {name: row[name] for name in _FIELDS}
            self.items.append({"id": row.get("id", str(number)), **kept})
        if not self.items:
            name = "custom_inputs" if data_path is None else f"data_path: {data_path}"
            raise ValueError(f"{name}: got no rows, expected 1 or more")

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        return self.items[index]


def examples_by_prompt(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Example]]:
    """The rows of each prompt, both in order.

    Raises:
        ValueError: there are none, one lacks something, or a prompt has a template's placeholder.
    """
    if not rows:
        raise ValueError("inputs: got no rows, expected 1 or more")
    groups: dict[str, list[Example]] = {}
    for number, row in enumerate(rows):
        _check_row(row, f"row {number} of inputs")
        example = Example(row["question"], str(row["answer"]).strip(), source=f"row {number}")
        groups.setdefault(row["prompt"].strip(), []).append(example)
    for prompt in groups:
        check_prompt(prompt)
    return groups


def _check_row(row: Mapping[str, Any], name: str) -> None:
    """Raise ValueError where a row lacks a text; answers may be numbers or truth values."""
    if not isinstance(row, Mapping):
        raise ValueError(f"{name}: got {quoted(row)}, expected a dict")
    if not row.keys() >= {*_FIELDS}:
        raise ValueError(
            f"{name}: got the columns {listed(row)}, expected {', '.join(_FIELDS)}: rename them"
        )
    for field in _FIELDS:
        kinds = (str, int, float) if field == "answer" else (str,)
        value = row[field]
        if not isinstance(value, kinds) or not str(value).strip():
            raise ValueError(
                f"{name}: {field}: got {quoted(value)}, expected a text that is not empty"
            )


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; empty lines are none."""
    rows = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"data_path: cannot read {path}: {in_one_line(error)}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: no JSON: {in_one_line(error)}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: got {quoted(row)}, expected an object")
        _check_row(row, f"{path}, line {number}")
        rows.append(row)
    return rows
