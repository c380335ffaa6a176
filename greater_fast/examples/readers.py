"""Raw rows from Python objects, data files and hub datasets.

A file's content decides its format, not its ending.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

Row = Mapping[str, object]

_ROW_LIST_KEYS = ("data", "examples")
_DELIMITERS = (",", "\t", ";")
_DATA_ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt")
# name or org/name, then optionally :config and :split
_HUB_NAME = re.compile(
    r"(?P<name>\w[\w.-]*(?:/\w[\w.-]*)?)(?::(?P<config>[\w.-]*)(?::(?P<split>\S+))?)?"
)


def bad_data(name: str, got: str, expected: str, advice: str) -> ValueError:
    """The error for data that cannot be used, in the form of all our errors."""
    return ValueError(f"{name}: got {got}; expected {expected}; {advice}")


def source_name(source: object) -> str:
    """Name a data source as error messages and reports should call it."""
    if not isinstance(source, str | PathLike):
        return f"the {type(source).__name__}"
    name = str(source)
    return name if len(name) <= 200 else name[:199] + "…"


def read_rows(source: object) -> list[Row]:
    """Read all rows of a source: rows, columns, a dataset, a DataFrame, a file or a hub name.

    A string is a file if one is there, else a hub dataset written `name[:config[:split]]`, as in
    `openai/gsm8k:main:test` or `org/name::validation`. The split is `train` unless given, and the
    config the only one, or else the one called `default` or `main`. A file is parquet, JSON (a list
    of objects, one under "data" or "examples", or an object of columns), JSON lines, or text with
    commas, tabs or semicolons between its fields. Raises ValueError when nothing can be read.
    """
    name = source_name(source)
    if isinstance(source, PathLike):
        rows = _read_file(Path(source).expanduser())
    elif isinstance(source, str):
        path = Path(source).expanduser()
        rows = _read_file(path) if _exists(path) else _read_hub(source)
    elif isinstance(source, Mapping):
        rows = _rows_of_object(source, name)
    elif isinstance(source, Iterable):
        rows = _rows_of_iterable(source)
    else:
        raise bad_data(
            "data",
            name,
            "rows, a datasets.Dataset, a file or a hub dataset name",
            "pass a list of {'question': …, 'answer': …}",
        )
    if not rows:
        raise bad_data(name, "no rows", "at least one", "check that this is the right data")
    return rows


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a path, or with a NUL: pasted data
        return False


def _rows_of_iterable(source: Iterable[Any]) -> list[Row]:
    """Rows of a list, DataFrame or dataset; numbers of its class labels become their names."""
    if hasattr(source, "iloc") and hasattr(source, "to_dict"):
        return list(source.to_dict("records"))
    with_format = getattr(source, "with_format", None)
    rows = _checked_rows(list(with_format(None) if with_format else source), source_name(source))
    features: Mapping[str, Any] = getattr(source, "features", None) or {}
    labels = {key: feature.names for key, feature in features.items() if hasattr(feature, "names")}
    if not labels:
        return rows
    return [{key: _label(value, labels.get(key)) for key, value in row.items()} for row in rows]


def _label(value: object, names: Sequence[str] | None) -> object:
    """The name of a class label, None where the dataset marks it as unknown (-1)."""
    if names is None or not isinstance(value, int):
        return value
    return names[value] if value >= 0 else None


def _checked_rows(rows: Sequence[object], name: str) -> list[Row]:
    checked: list[Row] = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise bad_data(
                name,
                f"{type(row).__name__} as row {number}",
                "an object with named columns",
                "pass rows as {'question': …, 'answer': …}",
            )
        checked.append(row)
    return checked


def _rows_of_object(source: Mapping[str, Any], name: str) -> list[Row]:
    """Rows of an object that holds a list of rows, or columns, or is itself the one row."""
    for key in _ROW_LIST_KEYS:
        value = source.get(key)
        if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
            return list(value)
    if source and all(isinstance(value, list | tuple) for value in source.values()):
        columns = {key: list(value) for key, value in source.items()}
    elif source and all(isinstance(value, Mapping) for value in source.values()):
        columns = {key: list(value.values()) for key, value in source.items()}  # pandas' to_json
    elif source and all(isinstance(value, str | int | float | None) for value in source.values()):
        return [source]
    else:
        raise bad_data(
            name,
            f"an object with {', '.join(map(repr, source)) or 'nothing in it'}",
            "rows under 'data' or 'examples', or one list a column",
            "pass the rows themselves, or one split of a dataset",
        )
    lengths = {key: len(column) for key, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise bad_data(
            name,
            f"columns of the lengths {lengths}",
            "equal lengths",
            "complete the short ones, or pass one split of a dataset",
        )
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _read_file(path: Path) -> list[Row]:
    name = str(path)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        raise bad_data(name, got, "a JSONL, JSON, CSV, TSV or parquet file", "check the path")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise bad_data(
            name, str(error.strerror), "a readable file", "check its permissions"
        ) from error
    if content.startswith(b"PAR1"):
        return _read_parquet(path)
    text = _decode(content, name)
    if not text.strip():
        raise bad_data(name, "an empty file", "rows", "check that this is the right file")
    return _read_json(text, name) if text.lstrip()[0] in "[{" else _read_csv(text, name)


def _decode(content: bytes, name: str) -> str:
    expected = "UTF-8 text or parquet"
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        got = f"the byte {content[error.start]:#04x} in line {line}, which is not UTF-8"
        raise bad_data(name, got, expected, "save it as UTF-8, unpacked") from error
    if "\0" in text:
        raise bad_data(name, "binary content", expected, "save it as UTF-8, unpacked")
    return text


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        rows: list[Row] = pq.ParquetFile(path).read().to_pylist()
    except (pa.ArrowException, OSError) as error:
        got = f"a broken parquet file ({error})"
        raise bad_data(str(path), got, "a whole one", "write or download it again") from error
    return rows


def _read_json(text: str, name: str) -> list[Row]:
    """Rows of a JSON document or of JSON lines."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        first_line = text.strip().partition("\n")[0].rstrip()
        if first_line.startswith("{") and first_line.endswith("}"):
            return _read_json_lines(text, name)
        got = f"broken JSON in line {error.lineno}, column {error.colno} ({error.msg})"
        raise bad_data(name, got, "JSON or JSON lines", "correct that line") from error
    if isinstance(document, list):
        return _checked_rows(document, name)
    return _rows_of_object(document, name)


def _read_json_lines(text: str, name: str) -> list[Row]:
    expected = "one JSON object a line"
    rows: list[Row] = []
    # not splitlines(): JSON strings may hold U+2028 and its like unescaped
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            got = f"broken JSON in line {number}, column {error.colno} ({error.msg})"
            raise bad_data(name, got, expected, "correct that line") from error
        if not isinstance(row, dict):
            got = f"{type(row).__name__} in line {number}"
            raise bad_data(name, got, expected, "correct that line")
        rows.append(row)
    return rows


def _read_csv(text: str, name: str) -> list[Row]:
    """Rows of delimited text; the delimiter is the one that cuts the header into most columns."""
    headers = {mark: next(_csv_records(text, mark, strict=False))[1] for mark in _DELIMITERS}
    delimiter = max(_DELIMITERS, key=lambda mark: len(headers[mark]))
    header = [column.strip() for column in headers[delimiter]]
    if len(set(header)) < len(header):
        raise bad_data(name, f"the columns {header}", "a name only once", "rename the columns")
    rows: list[Row] = []
    line = 1
    try:
        for line, fields in _csv_records(text, delimiter, strict=True):
            if len(fields) != len(header):
                raise bad_data(
                    name,
                    f"{len(fields)} fields in the row that ends in line {line}",
                    f"{len(header)} as in the header",
                    "quote fields that hold a delimiter or a line break",
                )
            rows.append(dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        got = f"broken CSV at or after line {line} ({error})"
        raise bad_data(name, got, "quotes closed before a delimiter", "correct that row") from error
    return rows[1:]


def _csv_records(text: str, delimiter: str, *, strict: bool) -> Iterator[tuple[int, list[str]]]:
    """The records that are not blank, each with the number of its last line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict)
    for fields in reader:
        if any(field.strip() for field in fields):
            yield reader.line_num, fields


def _read_hub(source: str) -> list[Row]:
    expected = "a data file, or a hub dataset name[:config[:split]]"
    match = _HUB_NAME.fullmatch(source)
    if match is None or match["name"].lower().endswith(_DATA_ENDINGS):
        raise bad_data(source_name(source), "no such file", expected, "check the path")
    import datasets

    try:
        config = match["config"] or _only_config(datasets.get_dataset_config_names(match["name"]))
        dataset = datasets.load_dataset(match["name"], config, split=match["split"] or "train")
    except Exception as error:  # the hub's client raises errors of several libraries
        got = f"no such file, and no such hub dataset ({type(error).__name__}: {error})"
        raise bad_data(source, got, expected, "check the name and the network") from error
    return _rows_of_iterable(dataset)


def _only_config(configs: Sequence[str]) -> str:
    for config in ("default", "main"):
        if config in configs:
            return config
    if len(configs) != 1:
        raise ValueError(f"it has the configs {', '.join(configs)}: write name:config")
    return configs[0]
