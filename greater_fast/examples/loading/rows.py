"""Rows out of objects, in the shapes that data libraries write them in."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from greater_fast.examples.loading.columns import ANSWERS, QUESTIONS
from greater_fast.examples.loading.errors import bad_data
from greater_fast.wording import listed, shortened

Row = Mapping[str, object]

_ROW_LIST_KEYS = ("data", "examples", "rows")
_WRAPPING = {"row", "row_idx", "truncated_cells"}
_MESSAGE_KEYS = {"role", "from"}
# SQuAD's file: articles of paragraphs of questions.
_EXPANDED_KEYS = (("paragraphs", "qas"), ("qas", "question"))


def checked_rows(rows: Iterable[object], name: str) -> list[Row]:
    """The rows, each an object with named columns.

    Raises:
        ValueError: one is something else.
    """
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


def rows_of_object(source: Mapping[str, Any], name: str) -> list[Row]:
    """Rows of an object that holds a list of rows, or columns, or is itself the one row.

    Rows stand under "data", "examples" or "rows" (in the hub's form, each under "row"), or under
    the only name that there is. Of pandas' forms all that have names are read.

    Raises:
        ValueError: it holds no rows, several sets of rows, or columns of different lengths.
    """
    names, table = source.get("columns"), source.get("data")
    if isinstance(names, list) and isinstance(table, list) and not _are_rows(table):
        # pandas' orient="split"
        return [dict(zip(names, cells, strict=True)) for cells in _table(names, table, name)]
    row_lists = {key: value for key, value in source.items() if _are_rows(value)}
    for key in (*_ROW_LIST_KEYS, *(source if len(source) == 1 else ())):
        if key in row_lists and not _are_columns(source):
            return unpacked(row_lists[key], name, source.get("features"))
    if len(row_lists) == len(source) > 1:
        got = f"rows under each of {listed(row_lists)}"
        raise bad_data(name, got, "one set of rows", "pass one of them, or save it alone")
    if any(_is_chat(value) for value in source.values()):
        return [source]
    if source and all(isinstance(value, list | tuple) for value in source.values()):
        return _rows_of_columns(source, name)
    if source and all(isinstance(value, Mapping) for value in source.values()):
        return _rows_of_objects(source, name)
    if any(isinstance(value, str | int | float | None) for value in source.values()):
        return [source]
    raise bad_data(
        name,
        f"an object with {listed(map(repr, source)) if source else 'nothing in it'}",
        "rows under 'data' or 'examples', or one list a column",
        "pass the rows themselves, or one split of a dataset",
    )


def unpacked(found: Iterable[object], name: str, features: object = None) -> list[Row]:
    """Rows out of what the hub's server and SQuAD's files wrap them in; other rows as they are.

    Raises:
        ValueError: one is no object, or has cells that the server cut off.
    """
    rows: list[Mapping[str, Any]] = [*checked_rows(found, name)]
    if rows and all(
        isinstance(row.get("row"), Mapping) and row.keys() <= _WRAPPING for row in rows
    ):
        for row in rows:
            if row.get("truncated_cells"):
                got = f"row {row.get('row_idx')} with cells that were cut off"
                raise bad_data(name, got, "whole rows", "download the dataset's files")
        return named_labels([row["row"] for row in rows], label_names(features))
    for key, has_inside in _EXPANDED_KEYS:
        if rows and all(_are_rows(row.get(key)) and has_inside in row[key][0] for row in rows):
            rows = [{**row, **part} for row in rows for part in row[key]]
            rows = [{name: cell for name, cell in row.items() if name != key} for row in rows]
    return [*rows]


def label_names(features: object) -> dict[str, Sequence[str]]:
    """Columns whose numbers stand for names, by a dataset's features or by their description."""
    if isinstance(features, list):  # the hub's rows
        features = {part["name"]: part["type"] for part in features}
    found: dict[str, Sequence[str]] = {}
    for column, feature in features.items() if isinstance(features, Mapping) else ():
        inner = _part(feature, "feature") or feature
        names = _part(inner, "names")
        if isinstance(names, list):
            found[column] = names
    return found


def named_labels(rows: list[Row], labels: Mapping[str, Sequence[str]]) -> list[Row]:
    """The rows with names for the numbers of class labels."""
    if not labels:
        return rows
    return [
        {key: _label(value, labels[key]) if key in labels else value for key, value in row.items()}
        for row in rows
    ]


def _label(value: object, names: Sequence[str]) -> object:
    """The name of a class label, None where the dataset marks it as unknown (-1)."""
    if isinstance(value, list):
        return [_label(part, names) for part in value]
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    return names[value] if 0 <= value < len(names) else None


def _part(feature: object, name: str) -> object:
    return feature.get(name) if isinstance(feature, Mapping) else getattr(feature, name, None)


def _are_rows(value: Any) -> bool:
    """Whether a value is a list of rows, which chat messages are not."""
    return _are_objects(value) and not _is_chat(value)


def _is_chat(value: Any) -> bool:
    """Whether a value is a list of messages."""
    return _are_objects(value) and bool(value[0].keys() & _MESSAGE_KEYS)


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def _are_columns(source: Mapping[str, Any]) -> bool:
    """Whether all values are lists of one length, and more than one."""
    lengths = {len(value) if isinstance(value, list) else -1 for value in source.values()}
    return len(source) > 1 and len(lengths) == 1 and -1 not in lengths


def _table(names: Sequence[str], table: Sequence[Any], name: str) -> Iterable[Sequence[Any]]:
    for number, cells in enumerate(table, start=1):
        if not isinstance(cells, list) or len(cells) != len(names):
            got = f"row {number} without the {len(names)} cells of the columns"
            raise bad_data(name, got, "one cell a column", "correct that row")
        yield cells


def _rows_of_columns(columns: Mapping[str, Sequence[Any]], name: str) -> list[Row]:
    lengths = {key: len(column) for key, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise bad_data(
            name,
            f"columns of the lengths {listed(f'{key}: {n}' for key, n in lengths.items())}",
            "equal lengths",
            "complete the short ones, or pass one split of a dataset",
        )
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _rows_of_objects(source: Mapping[str, Mapping[str, Any]], name: str) -> list[Row]:
    """Rows of pandas' {column: {index: cell}}, orient="columns", or {index: {column: cell}}.

    They look alike: names of columns are known, an index is numbers as a rule, and there are more
    rows than columns.
    """
    inner = list(dict.fromkeys(key for part in source.values() for key in part))
    if _likeness_to_columns(inner) > _likeness_to_columns(source):
        return list(source.values())
    return [{column: cells.get(key) for column, cells in source.items()} for key in inner]


def _likeness_to_columns(names: Collection[str]) -> tuple[bool, bool, int]:
    """The greater, the more likely are these the names of columns."""
    folded = {shortened(name).casefold() for name in names}
    is_known = not folded.isdisjoint(QUESTIONS) and not folded.isdisjoint(ANSWERS)
    return is_known, not all(name.isdigit() for name in folded), -len(folded)
