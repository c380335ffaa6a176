"""The rows of an evaluation in a file of the user's own, written as they end."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from greater_fast.runs.evaluation import RowLog, RowRecord
from greater_fast.runs.progress import Teller
from greater_fast.runs.writer import Writer, make_folders, new_path, take_back


class Records:
    """A new JSONL file; as a context it is taken back where no row came.

    Raises:
        ValueError: the file is there already, or cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path, self._writer, self._is_empty = new_path("records", path), Writer(), True
        try:
            self._made = make_folders(self._path.parent)
            self._path.open("x").close()
        except FileExistsError as error:
            raise ValueError(
                f"records: {path} exists already: name another file, or remove it"
            ) from error
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
        if self._is_empty:
            take_back(self._path, self._made)
        else:
            self._writer.flush()

    def append(self, row: Mapping[str, Any]) -> None:
        """A row with its outcome."""
        self._is_empty = False
        self._writer.append(self._path, row)


def row_writer(prompt: str, file: Records | None, teller: Teller) -> RowLog:
    """What an evaluation does with each finished row."""

    def write(number: int, row: RowRecord, model: Mapping[str, str]) -> None:
        teller.row()
        if file is not None:
            file.append({"prompt": prompt, **model, **row.to_dict()})

    return RowLog(write)
