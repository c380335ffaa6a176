"""The rows that keys name, in their files' order, as goals with ". Use" behind them."""

from __future__ import annotations

from pathlib import Path

from greater_fast.examples.data import Example
from greater_fast.examples.loading.files import read_file
from greater_fast.front_ends.released.keys import Given
from greater_fast.wording import quoted

_ADDITION = ". Use"  # behind every goal; the prompt goes on from there
TEST_PLACE = "behind config.data_offset + config.n_train_data rows"


def training_rows(given: Given) -> list[Example]:
    """The rows to search on.

    Raises:
        ValueError: there are none, or columns are missing or empty.
    """
    first, place = given.data_offset, "behind config.data_offset rows"
    return _rows(given.train_data, first, given.n_train_data, place)


def test_rows(given: Given) -> list[Example]:
    """The rows to choose by, if any: in a file of their own as far in as behind the training rows.

    The released code reads both so, and is mostly given the same file twice.

    Raises:
        ValueError: as of `training_rows`, where rows are asked for.
    """
    if not given.n_test_data:
        return []
    first = given.data_offset + given.n_train_data
    return _rows(given.test_data or given.train_data, first, given.n_test_data, TEST_PLACE)


def _rows(path: str, first: int, number: int, place: str) -> list[Example]:
    rows = read_file(Path(path).expanduser())
    examples = []
    for row_number, row in enumerate(rows[first : first + number], start=first + 1):
        cells = [row.get(name) for name in ("goal", "final_target")]
        goal, answer = ("" if cell is None else str(cell) for cell in cells)
        source = f"row {row_number} of {path}"
        if not goal.strip() or not answer.strip():
            raise ValueError(
                f"{path}: got {quoted(dict(row))} in row {row_number}, expected a goal and a "
                "final_target, by these names"
            )
        if len(answer) == 3 and answer[0] == "(" and answer[2] == ")":
            answer = answer[1]
        examples.append(Example(f"{goal}{_ADDITION}", answer, source=source))
    if not examples:
        raise ValueError(
            f"{path}: got {len(rows)} rows, expected some from row {first + 1} on: {place}"
        )
    return examples
