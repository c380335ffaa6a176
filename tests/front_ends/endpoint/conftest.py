"""Rows on a tiny model that is served, and what our engine makes of them."""

from collections.abc import Callable, Iterator

import pytest

from greater_fast import evaluate
from greater_fast.model.lm import LM
from greater_fast.runs.result import Report
from tests.front_ends.endpoint.asking import CONFIG, OTHER, Rows
from tests.front_ends.served import Served, serving
from tests.tiny import PROMPT


@pytest.fixture(scope="session")
def right_rows(labelled_rows: Callable[[str], Rows]) -> Rows:
    """Rows on which the tiny model is right with the prompt, but for two of them."""
    found = labelled_rows(PROMPT)[:8]
    return [*found, *({**row, "question": f"{row['question']} Really?"} for row in found[:2])]


@pytest.fixture(scope="session")
def here(lm: LM, right_rows: Rows) -> Report:
    return evaluate(lm, right_rows, prompt=PROMPT, against=OTHER, config=CONFIG, progress=False)


@pytest.fixture
def served(lm: LM) -> Iterator[Served]:
    with serving(lm) as found:
        yield found
