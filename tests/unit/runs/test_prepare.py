"""Sets of rows that go together, or do not."""

from collections.abc import Callable
from typing import Any

import pytest

from greater_fast.config import Config
from greater_fast.examples.data import load_examples
from greater_fast.runs.prepare import read_splits

CHOICES = ["w", "x", "y"]


def rows(name: str, *answers: object) -> list[dict[str, object]]:
    return [
        {"question": f"{name} {number}", "choices": CHOICES, "answer": answer}
        for number, answer in enumerate(answers)
    ]


@pytest.mark.parametrize("load", [list, load_examples])
def test_options_counted_from_1_in_one_set_and_from_0_in_another_are_refused(
    load: Callable[..., Any],
) -> None:
    train, dev = load(rows("t", 1, 2, 3)), load(rows("d", 1, 2))
    with pytest.raises(ValueError, match="dev are read as numbers from 0, though numbers from 1"):
        read_splits(train, dev, None, Config())


def test_sets_read_in_one_way_or_in_ways_that_leave_no_doubt() -> None:
    train, dev, test = rows("t", 0, 1, 2), rows("d", 0, 1), rows("e", "x", "w")
    splits = read_splits(train, dev, test, Config())
    assert [row.answer for row in (*splits.train, *splits.dev, *splits.test)] == list("ABCABBA")
    assert load_examples(test).readings == ("texts",)
