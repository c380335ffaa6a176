"""Data files: parquet, JSON, JSON lines, and text with marks between its fields.

A file's content decides its format, not its ending.
"""

import contextlib
import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from greater_fast.examples.loading.errors import bad_data
from greater_fast.examples.loading.rows import (
    Row,
    checked_rows,
    label_names,
    named_labels,
    rows_of_object,
)
from greater_fast.wording import in_one_line, listed

DATA_ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt")
_DELIMITERS = (",", "\t", ";")
_BLANK = re.compile(r"\s*")
_LONGEST_FIELD = 2**31 - 1  # a C long, on any system


def read_file(path: Path) -> list[Row]:
    """Rows of a file.

    It is parquet, JSON (a list of objects, one under "data" or "examples", or pandas' objects of
    columns), JSON objects one after another or one a line, or text with commas, tabs or semicolons
    between its fields.

    Raises:
        ValueError: there is no such file, or it is broken; the message says in which line.
    """
    name = str(path)
    if not path.is_file():
        if path.is_dir():
            got, advice = "a folder", "check the path"
        elif path.exists():
            got, advice = "a pipe or a device", "save it as a file first"
        else:
            got, advice = "no such file", "check the path"
        raise bad_data(name, got, "a JSONL, JSON, CSV, TSV or parquet file", advice)
    try:
        content = path.read_bytes()
    except OSError as error:
        advice = "check its permissions"
        raise bad_data(name, str(error.strerror), "a readable file", advice) from error
    if content.startswith(b"PAR1"):
        return _read_parquet(path)
    text = _decode(content, name)
    if not text.strip():
        raise bad_data(name, "an empty file", "rows", "check that this is the right file")
    if text.lstrip()[0] in "[{":
        return _read_json(text, name)
    with _fields_of_any_length():
        return _read_csv(text, name)


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
        table = pq.ParquetFile(path).read()
        rows: list[Row] = table.to_pylist()
        # what `datasets` writes beside the columns has the names of class labels
        described = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    except (pa.ArrowException, OSError, ValueError) as error:
        got = f"a broken parquet file ({in_one_line(error)})"
        raise bad_data(str(path), got, "a whole one", "write or download it again") from error
    return named_labels(rows, label_names(described.get("info", {}).get("features")))


def _read_json(text: str, name: str) -> list[Row]:
    """Rows of one JSON document, or of JSON objects one after another, one a line as a rule."""
    documents = list(_json_documents(text, name))
    if len(documents) > 1:
        for line, document in documents:
            if not isinstance(document, dict):
                got = f"{type(document).__name__} in line {line}"
                raise bad_data(name, got, "one JSON object a line", "correct that line")
        return [document for _, document in documents]
    document = documents[0][1]
    if isinstance(document, list):
        return checked_rows(document, name)
    return rows_of_object(document, name)


def _json_documents(text: str, name: str) -> Iterator[tuple[int, Any]]:
    """Each JSON document of a text, with the number of the line that it begins in."""
    decoder = json.JSONDecoder()
    line, stop = 1, 0
    while (start := _BLANK.match(text, stop).end()) < len(text):  # type: ignore[union-attr]
        line += text.count("\n", stop, start)
        try:
            document, stop = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            got = f"broken JSON in line {error.lineno}, column {error.colno} ({error.msg})"
            raise bad_data(name, got, "JSON or JSON lines", "correct that line") from error
        except (RecursionError, ValueError) as error:  # a number of more digits than Python reads
            got = f"JSON in line {line} that is nested too deep, or has too long a number"
            raise bad_data(name, got, "rows of text and numbers", "correct that row") from error
        yield line, document
        line += text.count("\n", start, stop)


def _read_csv(text: str, name: str) -> list[Row]:
    """Rows of delimited text; the delimiter is the one that cuts the header into most columns.

    A column without a name is kept under "". Where each row has one field more than the header, the
    first column is without a name, as R writes it.
    """
    headers = {mark: _csv_header(text, mark, name) for mark in _DELIMITERS}
    delimiter = max(_DELIMITERS, key=lambda mark: len(headers[mark]))
    header = [column.strip() for column in headers[delimiter]]
    named = [column for column in header if column]
    if len(set(named)) < len(named):
        got = f"the columns {listed(header)}"
        raise bad_data(name, got, "a name only once", "rename the columns")
    records = _records(text, delimiter, name)[1:]
    if records and all(len(f) == len(header) + 1 and f[0].isdigit() for _, f in records):
        header = ["", *header]
    rows: list[Row] = []
    for line, fields in records:
        if len(fields) != len(header):
            raise bad_data(
                name,
                f"{len(fields)} fields in the row that ends in line {line}",
                f"{len(header)} as in the header",
                "quote fields that hold a delimiter or a line break",
            )
        rows.append(dict(zip(header, fields, strict=True)))
    return rows


def _records(text: str, delimiter: str, name: str) -> list[tuple[int, list[str]]]:
    """The records that are not blank, each with the number of its last line.

    Between tabs, quotes may be text, as tools write them that know no quoting: where each line has
    as many fields as the first, and by quotes there are broken rows. Where they would only join
    lines to rows as long as the first, there is no telling.
    """
    lines = list(enumerate(io.StringIO(text, None), 1)) if delimiter == "\t" else []
    plain = [(n, line.rstrip("\n").split(delimiter)) for n, line in lines if line.strip()]
    num_fields = {len(fields) for _, fields in plain}
    if len(num_fields) != 1:
        return list(_csv_records(text, delimiter, name))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        by_quotes = [len(fields) for fields in reader]
    except csv.Error:
        return plain
    if len(by_quotes) == reader.line_num:  # no row has several lines
        return list(_csv_records(text, delimiter, name))
    if set(by_quotes) - {0} != num_fields:
        return plain
    got = "quotes that may be text, or join lines to one row"
    raise bad_data(name, got, "one of the two alone", "save it as CSV or as JSON lines")


def _csv_header(text: str, delimiter: str, name: str) -> list[str]:
    """The first record that is not blank, [] without one; broken quotes in it are told later."""
    return next((fields for _, fields in _csv_records(text, delimiter, name, strict=False)), [])


def _csv_records(
    text: str, delimiter: str, name: str, *, strict: bool = True
) -> Iterator[tuple[int, list[str]]]:
    """The records that are not blank, each with the number of its last line."""
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        strict=strict,
        skipinitialspace=delimiter in ",;",  # as people write them: a quote may follow the space
    )
    line = 1
    try:
        for fields in reader:
            line = reader.line_num
            if any(field.strip() for field in fields):
                yield line, fields
    except csv.Error as error:
        got = f"broken CSV at or after line {line} ({error})"
        raise bad_data(name, got, "quotes closed before a delimiter", "correct that row") from error


@contextlib.contextmanager
def _fields_of_any_length() -> Iterator[None]:
    """Within it, the csv module reads fields of more than 131,072 characters."""
    limit = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
