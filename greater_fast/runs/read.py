"""Files of a run read back: what is whole of them, and what is not, by the file's name."""

from __future__ import annotations

import json
from collections.abc import Mapping
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


def models_of(run: Mapping[str, Any]) -> list[str]:
    """Where each model of a run is found again, wherever one is now: a hub name, or a whole path.

    A folder that lies there no more, as in a copy of a project, is looked for by the name that was
    typed.

    Raises:
        ValueError: one was loaded by the user, which no file holds.
    """
    names, sources = _names_and_sources(run)
    if None in sources:
        raise ValueError(
            "model: the run was begun with a loaded model, which no file holds: give it again (in "
            "Python model=...), or name where it lies"
        )
    pairs = zip(names, sources, strict=True)
    return [name if _is_elsewhere(source, name) else source for name, source in pairs]


def _is_elsewhere(source: str, name: str) -> bool:
    return Path(source).is_absolute() and not Path(source).exists() and Path(name).exists()


def _names_and_sources(run: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    names = run["model"] if isinstance(run["model"], list) else [run["model"]]
    return names, run.get("source") or names  # older runs have none


def one_source(run: Mapping[str, Any], named: str | None) -> str:
    """Where the model of a run is found, or that of its models which is named.

    Raises:
        ValueError: none is named of several, or no file holds it.
    """
    names = run["model"]
    if isinstance(names, list) and named is None:
        raise ValueError(f"the run is of several models: name one of {', '.join(names)} (--model)")
    if named is None:
        return models_of(run)[0]
    known, sources = _names_and_sources(run)
    source = sources[known.index(named)] if len(known) > 1 and named in known else None
    return source or named
