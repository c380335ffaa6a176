"""Raw rows from Python objects, data files and hub datasets."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence, Sized
from os import PathLike
from pathlib import Path
from typing import Any

from greater_fast.examples.loading.errors import bad_data, source_name
from greater_fast.examples.loading.files import DATA_ENDINGS, read_file
from greater_fast.examples.loading.rows import (
    Row,
    checked_rows,
    label_names,
    named_labels,
    rows_of_object,
    unpacked,
)
from greater_fast.wording import in_one_line, listed

# A source that does not say how long it is may be endless.
_MOST_ROWS_OF_UNKNOWN_LENGTH = 1_000_000
# name or org/name, then optionally :config and :split
_HUB_NAME = re.compile(
    r"(?P<name>\w[\w.-]*(?:/\w[\w.-]*)?)(?::(?P<config>[\w.-]*)(?::(?P<split>\S+))?)?"
)


def read_rows(source: object) -> list[Row]:
    """Read all rows of a source: rows, columns, a dataset, a DataFrame, a file or a hub name.

    A string is a file or folder if one is there, else a hub dataset `name[:config[:split]]`, as in
    `openai/gsm8k:main:test` or `org/name::validation`. The split is `train` unless given, and the
    config the only one, or else the one called `default` or `main`. What a file may hold says
    `read_file`; a folder is one that a dataset's `save_to_disk` left. Raises ValueError when
    nothing can be read.
    """
    name = source_name(source)
    if isinstance(source, PathLike):
        rows = _read_path(_path_of(source))
    elif isinstance(source, str):
        path = _path_of(source)
        rows = _read_path(path) if _exists(path) else _read_hub(source)
    elif isinstance(source, Mapping):
        rows = _rows_of_mapping(source, name)
    elif isinstance(source, Iterable):
        rows = _rows_of_iterable(source, name)
    else:
        raise bad_data(
            "data",
            name,
            "rows, a datasets.Dataset, a file or a hub dataset name",
            "pass a list of {'question': …, 'answer': …}",
        )
    if not rows:
        raise bad_data(name, "no rows", "at least one", "check that this is the right data")
    return unpacked(rows, name)


def take_rows(source: Iterable[Any], name: str) -> list[Any]:
    """All rows of an iterable.

    Raises:
        ValueError: it does not say its length, and does not end within a million rows.
    """
    if isinstance(source, Sized):
        return list(source)
    rows = list(itertools.islice(source, _MOST_ROWS_OF_UNKNOWN_LENGTH + 1))
    if len(rows) > _MOST_ROWS_OF_UNKNOWN_LENGTH:
        raise bad_data(
            name,
            f"more than {_MOST_ROWS_OF_UNKNOWN_LENGTH:,} rows, and no end",
            "rows that end",
            "pass a part, as itertools.islice(rows, 10_000), or a file",
        )
    return rows


def _path_of(source: str | PathLike[str]) -> Path:
    """The path of that name; `~` is the home folder, where there is one."""
    try:
        return Path(source).expanduser()
    except RuntimeError:
        return Path(source)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a path, or with a NUL: pasted data
        return False


def _read_path(path: Path) -> list[Row]:
    """Rows of a file, or of a folder that `save_to_disk` of a dataset left."""
    name = str(path)
    if not _exists(path):
        raise bad_data(name, "no such file", "a data file or folder", "check the path")
    if (path / "state.json").is_file():
        import datasets

        try:
            return _rows_of_iterable(datasets.load_from_disk(name), name)
        except Exception as error:  # of several libraries, and KeyError for a broken description
            got = f"a dataset that cannot be read ({type(error).__name__}: {in_one_line(error)})"
            raise bad_data(name, got, "a whole one", "save it again") from error
    if (path / "dataset_dict.json").is_file():
        splits = sorted(part.name for part in path.iterdir() if part.is_dir())
        if len(splits) == 1:
            return _read_path(path / splits[0])
        got, advice = f"the splits {listed(splits)}", f"pass one of them, as {path / 'SPLIT'}"
        raise bad_data(name, got, "one split of a dataset", advice)
    return read_file(path)


def _rows_of_mapping(source: Mapping[str, Any], name: str) -> list[Row]:
    """Rows of an object, or of a dataset's only split."""
    if source and all(hasattr(split, "with_format") for split in source.values()):
        if len(source) == 1:
            return _rows_of_iterable(next(iter(source.values())), name)
        got, advice = f"the splits {listed(source)}", "pass one of them, as dataset['train']"
        raise bad_data(name, got, "one split of a dataset", advice)
    return rows_of_object(source, name)


def _rows_of_iterable(source: Iterable[Any], name: str) -> list[Row]:
    """Rows of a list, DataFrame or dataset; numbers of its class labels become their names."""
    if hasattr(source, "iloc") and hasattr(source, "to_dict"):
        columns = list(getattr(source, "columns", ()))
        if len(set(columns)) < len(columns):
            got = f"the columns {listed(columns)}"
            raise bad_data(name, got, "a name only once", "rename the columns")
        return list(source.to_dict("records"))
    if hasattr(source, "to_list") and hasattr(source, "with_format") and isinstance(source, Sized):
        rows: Any = source.to_list()  # a dataset; row by row takes ten times as long
    elif hasattr(source, "with_format"):
        rows = take_rows(source.with_format(None), name)
    else:
        rows = source.to_dicts() if hasattr(source, "to_dicts") else take_rows(source, name)
    checked = checked_rows(rows, name)
    return named_labels(checked, label_names(getattr(source, "features", None)))


def _read_hub(source: str) -> list[Row]:
    expected = "a data file, or a hub dataset name[:config[:split]]"
    match = _HUB_NAME.fullmatch(source)
    if match is None or match["name"].lower().endswith(DATA_ENDINGS):
        raise bad_data(source_name(source), "no such file", expected, "check the path")
    import datasets

    try:
        config = match["config"] or _only_config(datasets.get_dataset_config_names(match["name"]))
        dataset = datasets.load_dataset(match["name"], config, split=match["split"] or "train")
    except Exception as error:  # the hub's client raises errors of several libraries
        got = (
            f"no such file, and no such hub dataset ({type(error).__name__}: {in_one_line(error)})"
        )
        raise bad_data(source, got, expected, "check the name and the network") from error
    return _rows_of_iterable(dataset, source)


def _only_config(configs: Sequence[str]) -> str:
    for config in ("default", "main"):
        if config in configs:
            return config
    if len(configs) != 1:
        raise ValueError(f"it has the configs {listed(configs)}: write name:config")
    return configs[0]
