"""A config file: a program with `get_config`, which gives a `ConfigDict` of ml_collections."""

from __future__ import annotations

import contextlib
import runpy
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from greater_fast.front_ends.missing import needs
from greater_fast.wording import in_one_line, quoted

_PACKAGES = ("absl", "ml_collections")


def read_config(path: str | Path) -> dict[str, Any]:
    """The keys and values of a config file, which is executed.

    As there, it may import the files beside it as `configs.template`, by the name of their folder.

    Raises:
        ValueError: there is no such file, it fails, or it gives no config.
        ImportError: it needs ml_collections, which is not installed.
    """
    file = Path(path).expanduser().absolute()
    if not file.is_file():
        raise ValueError(f"--config: no file at {path}")
    try:
        with _importable(file.parent):
            config = runpy.run_path(str(file))["get_config"]()
    except ImportError as error:
        if (error.name or "").partition(".")[0] in _PACKAGES:
            raise needs("released", error) from error
        raise ValueError(f"--config: {path} failed: {in_one_line(error)}") from error
    except Exception as error:  # it is a program of somebody else's
        said = f"{type(error).__name__}: {in_one_line(error)}"
        raise ValueError(f"--config: {path} failed: {said}") from error
    values = config.to_dict() if hasattr(config, "to_dict") else config
    if not isinstance(values, Mapping):
        raise ValueError(f"--config: got {quoted(values)} from get_config of {path}, not a config")
    return dict(values)


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Within it, files of a folder are modules under the folder's name; after it, of nobody."""
    path, before = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(folder.parent))
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == folder.name:
                del sys.modules[name]
