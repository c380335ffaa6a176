"""Lines of JSON in a file that processes add to beside each other, and that a kill may cut off."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def append_line(path: Path, values: Mapping[str, Any]) -> None:
    """Write a line behind the others, and never into one that was cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(values, ensure_ascii=False) + "\n"
    if _is_cut_off(path):
        text = "\n" + text
    with path.open("a", encoding="utf-8") as file:
        file.write(text)  # in one go: other processes write lines of their own there


def _is_cut_off(path: Path) -> bool:
    """Whether the last line has no end: a kill came between."""
    if not path.exists() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"
