"""What a filled form becomes: settings, and arguments that the command line reads back."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greater_fast.cli.commands import parser
from greater_fast.cli.options import settings
from greater_fast.ui.form import SETTINGS, Form

pytestmark = pytest.mark.ui
RUN = Path("runs/one")


def filled(**changes: Any) -> Form:
    return Form(**{"model": "tiny", "data": "rows.csv", "prompt": "Think.", **changes})


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1)


@given(model=TEXTS, prompt=TEXTS)
def test_the_command_line_reads_back_what_was_typed(model: str, prompt: str) -> None:
    """Whatever it is: a text that looks like an option is none."""
    if not model.strip() or not prompt.strip():
        return
    options = parser().parse_args(filled(model=model, prompt=prompt).arguments(RUN))
    assert options.model == [model.strip()]
    assert (options.prompt, options.train, options.run_dir) == (prompt, "rows.csv", str(RUN))


def test_settings_are_passed_on_and_empty_ones_left_out() -> None:
    given = dict.fromkeys(SETTINGS) | {"steps": 3, "minutes": 1.5, "metric": "numeric"}
    form = filled(settings=given, test="test.csv")
    options = parser().parse_args(form.arguments(RUN))
    assert settings(options, {}) == form.config
    assert (form.config.steps, form.config.minutes, form.config.metric) == (3, 1.5, "numeric")
    assert options.test == "test.csv"
    assert not any("metric" in text for text in filled(settings={"metric": ""}).arguments(RUN))


def test_columns_are_named_where_one_is() -> None:
    assert filled().columns is None
    assert parser().parse_args(filled().arguments(RUN)).columns is None
    form = filled(question_column=" a b ", answer_column="c")
    assert form.columns == {"question": "a b", "answer": "c"}
    assert parser().parse_args(form.arguments(RUN)).columns == "question=a b,answer=c"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": " "}, "no model"),
        ({"data": None}, "no rows"),
        ({"prompt": "\n"}, "no prompt"),
        ({"prompt": "a\0b"}, "NUL"),
        ({"answer_column": "a,b"}, "'a,b'"),
        ({"settings": {"steps": -1}}, "steps"),
        ({"settings": {"num_train": 2.5}}, "num_train"),
    ],
)
def test_what_cannot_work_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        filled(**changes).arguments(RUN)
