"""Rows that a server has answered, in a file that a later evaluation goes on from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from greater_fast.front_ends.endpoint.replies import Answered
from greater_fast.runs.evaluation import RowRecord
from greater_fast.runs.read import read_lines
from greater_fast.runs.writer import Writer, make_folders, new_path, take_back

_BEGINNING = b'{"asked": "'
_ANSWERED = {
    "asked": str,
    "reasoning": str,
    "answer": str,
    "cut_off": bool,
    "exact": bool | None,
}


def digest(asked: Mapping[str, Any]) -> str:
    """What stands for all that a server is asked for a row: equal where it was asked the same."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class Record:
    """A JSONL file of answered rows, each with the digest of what was asked; None keeps none.

    A line is appended as a row ends. Rows that are there already are known: they are taken where
    the same is asked, of the same server and model. Of a line that a kill has cut off nothing is
    taken, and nothing stays.

    Raises:
        ValueError: the file holds something else, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._writer, self._path, self._known = Writer(), None, dict[str, Answered]()
        self._made: list[Path] = []
        self._is_new = False
        if path is None:
            return
        self._path = new_path("records", path)
        try:
            self._made = make_folders(self._path.parent)
            self._is_new = not self._path.exists()
            with self._path.open("ab+") as file:
                self._check_and_mend(file)
        except OSError as error:
            raise ValueError(
                f"records: {path} cannot be written ({error.strerror}): name another file"
            ) from error

    @property
    def problem(self) -> str | None:
        """What could not be written, and why; None where all was."""
        return self._writer.problem

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        self._writer.flush()
        if self._path is None or not self._is_new:
            return
        with contextlib.suppress(OSError):
            if self._path.stat().st_size == 0:
                take_back(self._path, self._made)

    def known(self, asked: str) -> Answered | None:
        """The row that was answered when the same was asked."""
        return self._known.get(asked)

    def append(
        self, asked: str, prompt: str, number: int, row: RowRecord | None, answered: Answered
    ) -> None:
        """A row that has been answered, and what it came to, None where the metric failed."""
        if self._path is None:
            return
        line: dict[str, Any] = {"asked": asked, "prompt": prompt, "row": number}
        line |= {} if row is None else row.to_dict()
        self._writer.append(self._path, line | asdict(answered))

    def _check_and_mend(self, file: Any) -> None:
        """Read what is there; cut off what a kill has left of a line.

        Raises:
            ValueError: it is no record of this kind.
        """
        assert self._path is not None
        damage: list[str] = []
        for line in read_lines(self._path, damage):
            if not all(isinstance(line.get(name, ...), kind) for name, kind in _ANSWERED.items()):
                damage.append("a line is none of ours")
                break
            self._known[line["asked"]] = Answered(
                line["reasoning"],
                line["answer"],
                line["cut_off"],
                line["exact"],
                str(line.get("flaw", "")),
            )
        file.seek(0)
        content = file.read()
        rest = content[content.rfind(b"\n") + 1 :]
        if damage or not (rest.startswith(_BEGINNING) or _BEGINNING.startswith(rest)):
            raise ValueError(
                f"records: {self._path} holds something else than rows of a served model "
                f"({damage[0] if damage else 'it does not end with a line'}): name another file"
            )
        if rest:  # else another process may have added a line by now
            file.truncate(len(content) - len(rest))
