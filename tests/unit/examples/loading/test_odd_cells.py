"""Cells and names that only Python has, or that look like lists and are none."""

import decimal
import fractions
from pathlib import Path

import pytest

from greater_fast import load_examples
from greater_fast.examples.loading.cells import literal, text_of
from greater_fast.examples.loading.solutions import best_scored

HUGE = 10**5000  # more digits than Python writes


@pytest.mark.parametrize("text", ["{[1]: 2}", "{{'a'}}", "[" * 5000, "{'a'", "[1"])
def test_what_is_no_list_stays_text(text: str) -> None:
    assert literal(text) == text


def test_arrays_inside_arrays() -> None:
    assert literal("array(['a'], dtype=object)") == "array(['a'], dtype=object)"
    assert literal("[array(['a', 'b'], dtype=object)]") == [["a", "b"]]
    assert literal("['a' 'b'\n 'c']") == ["a", "b", "c"]
    cut_off = '["' + '\\"a' * 200_000
    assert literal(cut_off) == cut_off  # in time
    assert literal("""['the boys\\' "club"', 'x']""") == ["""the boys' "club\"""", "x"]
    assert literal("""["a' 'b" 'c']""") == ["a' 'b", "c"]


def test_numbers_without_a_text() -> None:
    assert text_of(HUGE) is None
    assert text_of(fractions.Fraction(HUGE, 3)) is None
    assert text_of(decimal.Decimal("sNaN")) == ""
    assert text_of(decimal.Decimal("NaN")) == ""
    assert text_of(decimal.Decimal("18.0")) == "18.0"
    with pytest.raises(ValueError, match="got int in column 'answer' of row 1; expected text"):
        load_examples([{"question": "?", "answer": HUGE}])


def test_a_name_without_a_text() -> None:
    with pytest.raises(ValueError, match="got a column named by <int>; expected names"):
        load_examples([{"question": "?", "answer": "a", HUGE: 1}])


def test_scores() -> None:
    assert best_scored({"a": 0, "b": 1, "c": 1}) == ["b", "c"]
    assert best_scored({"a": "x"}) == []
    assert best_scored("a") == "a"


@pytest.mark.parametrize("path", ["a" * 5000, "~nobody-here/rows.jsonl", "\0"])
def test_paths_that_cannot_be(path: str) -> None:
    for source in (path, Path(path)):
        with pytest.raises(ValueError, match="no such file") as error:
            load_examples(source)
        assert len(str(error.value)) < 1000
