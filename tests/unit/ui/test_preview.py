"""What the rows of a file become before a run, beside what a plan and a run say of them."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest

from greater_fast.api import plan
from greater_fast.model.byte_sizes import format_bytes
from greater_fast.ui.form import Form
from greater_fast.ui.preview import Preview, preview, preview_apart

pytestmark = pytest.mark.ui
PROMPT = "Think step by step."


@pytest.fixture
def data(tmp_path: Path, rows: list[dict[str, str]]) -> Path:
    """The rows in a file, with a column that nobody reads, and a passage."""
    path = tmp_path / "rows.jsonl"
    lines = [{"Question": r["question"], "gold": r["answer"], "id": 1} for r in rows]
    path.write_text("\n".join(json.dumps({**line, "context": "It rains."}) for line in lines))
    return path


def form(model: Path | str, data: Path, settings: dict[str, Any], **more: Any) -> Form:
    return Form(model=str(model), data=str(data), prompt=PROMPT, settings=settings, **more)


def test_it_says_what_the_plan_says(
    model_folder: Path, data: Path, settings: dict[str, Any]
) -> None:
    seen = preview(form(model_folder, data, settings))
    expected = plan(model_folder, str(data), prompt=PROMPT, config=settings)
    assert seen.problem == ""
    assert seen.needs == tuple(
        (need.name, format_bytes(need.num_bytes), need.how) for need in expected.needs
    )
    assert seen.verdict[-1] == expected.work.describe()
    assert seen.verdict[0].startswith(format_bytes(expected.needed_bytes))


def test_columns_rows_and_splits_are_told(
    model_folder: Path, data: Path, settings: dict[str, Any], rows: list[dict[str, str]]
) -> None:
    seen = preview(form(model_folder, data, settings))
    assert dict(seen.columns) == {
        "Question": "question",
        "gold": "answer",
        "id": "not read",
        "context": "part of the question",
    }
    assert seen.num_rows == len(rows)
    assert [answer for _, answer in seen.rows] == [row["answer"] for row in rows[:5]]
    assert "It rains." in seen.rows[0][0]
    notes = "\n".join(seen.notes)
    for part in ("train: 4 of 12 rows", "dev: 4 of", "extractor (derived", "not read: id"):
        assert part in notes
    assert PROMPT in seen.reads


def test_without_a_model_the_rows_are_read_alone(data: Path) -> None:
    seen = preview(form("", data, {}))
    assert (seen.num_rows, seen.problem, seen.needs) == (12, "", ())


def test_columns_may_be_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["zip", "zap"], ["1 + 1?", "2"], ["1 + 2?", "3"]])
    seen = preview(form("", path, {}))
    assert "zip" in seen.problem
    named = preview(form("", path, {}, question_column="zip", answer_column="zap"))
    assert (named.problem, named.rows[1]) == ("", ("1 + 2?", "3"))


def test_rows_are_shown_where_the_model_cannot_be_had(tmp_path: Path, data: Path) -> None:
    seen = preview(form(tmp_path / "nothing", data, {}))
    assert seen.num_rows == 12
    assert "nothing" in seen.problem


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0nonsense", b"{", b"[1, 2]"])
def test_a_file_that_is_none_is_said_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    seen = preview(form("", path, {}))
    assert seen.problem
    assert "Traceback" not in seen.problem


def test_no_file_is_said_so() -> None:
    assert "drop" in preview(Form(model="", data=None, prompt="")).problem


def test_a_process_of_its_own_sees_the_same(data: Path) -> None:
    asked = form("", data, {})
    assert preview_apart(asked) == preview(asked)


def _killed(form: Form) -> Preview:
    os._exit(9)


def test_a_process_that_is_killed_is_a_problem_and_no_error(data: Path) -> None:
    assert "memory" in preview_apart(form("", data, {}), _killed).problem
