"""Files of a run read back: what is whole of them, and what is not, by the file's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from greater_fast.runs.visible import brief


def read_object(path: Path, damage: list[str]) -> dict[str, Any] | None:
    """The JSON object of a file; None where there is no file, or none that is whole."""
    try:
        value = _parsed(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        damage.append(f"{brief(str(path))} cannot be read: {brief(str(error))}")
        return None
    return value


def read_lines(path: Path, damage: list[str]) -> list[Any]:
    """Whole lines of a JSONL file; a last line that was cut off by a kill is no damage."""
    try:
        # As bytes: the cut may be inside a character, and text would be split at U+2028 as well.
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        damage.append(f"{path} cannot be read: {error.strerror}")
        return []
    values, broken = [], []
    for number, line in enumerate(lines, 1):
        try:
            values.append(_parsed(line))
        except (ValueError, RecursionError):
            broken.append(number)
    if broken:
        shown = ", ".join(map(str, broken[:5])) + (", ..." if len(broken) > 5 else "")
        damage.append(f"{path}: {len(broken)} of {len(lines)} lines are damaged ({shown})")
    return values


def _parsed(content: bytes) -> dict[str, Any]:
    value = json.loads(content.decode("utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"got a {type(value).__name__}, expected a JSON object")
    return value
