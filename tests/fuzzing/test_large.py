"""Large input takes a few passes: time by the square of its length would not end."""

import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from greater_fast import load_examples, optimize
from greater_fast.config import Config
from greater_fast.examples.answers import answers_match
from greater_fast.examples.cutting import cut_answer
from greater_fast.examples.golds import spelling
from greater_fast.examples.loading.cells import literal
from greater_fast.examples.loading.choices import read_options
from greater_fast.examples.loading.solutions import best_scored, final_answer
from greater_fast.examples.loading.template import parse_template
from greater_fast.examples.placeholders import has_placeholder, with_answer_place
from greater_fast.model.lm import LM
from tests.fuzzing.test_input import ROWS, outcome
from tests.tiny import PROMPT

PATIENCE = 60  # seconds, for what takes one; by the square it would be an hour
LENGTH = 100_000
UNITS = (
    *(" ", "{", "{{a", "{a", "{%", "<question>", "$a", "{answer}", "{the ", "\\", "\\boxed{", "#"),
    *(": ", "!.", ". ", "answer: ", "<answer>", "array([1], ", "'a' ", "(A) ", "1,", "“", "**"),
)


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Interrupt what does not end."""

    def interrupt(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def shapes(unit: str) -> list[str]:
    """Long texts of a unit, alone and begun or ended by what patterns wait for."""
    many = unit * (LENGTH // len(unit))
    return [many, f"{many}x", f"{{{many}", f"[{many}", f"the answer is {many}}}"]


@pytest.mark.parametrize("unit", UNITS)
def test_long_texts(unit: str) -> None:
    readings: tuple[Callable[[str], object], ...] = (
        *(has_placeholder, with_answer_place, spelling, literal, read_options, final_answer),
        lambda text: answers_match(text, "A"),
        lambda text: cut_answer(text, "</answer>"),
        lambda text: outcome(lambda: parse_template(text)),
    )
    with patience():
        for text in shapes(unit):
            for read in readings:
                read(text)


def test_many_options() -> None:
    with patience():
        assert best_scored(dict.fromkeys(map(str, range(LENGTH)), 0) | {"best": 1}) == ["best"]


@pytest.mark.parametrize("mark", ["question", "answer", "passage"])
def test_a_long_cell(mark: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"question": "?", "answer": "a", mark: "word " * 1_000_000}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with patience():
        assert getattr(load_examples(path)[0], "question" if mark == "passage" else mark)


def test_many_columns(tmp_path: Path) -> None:
    names = ["question", "answer", *(f"column {i}" for i in range(100_000))]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(",".join(row) for row in (names, *[["x"] * len(names)] * 4)))
    with patience():
        examples = load_examples(path)
    assert [example.question for example in examples] == ["x"] * 4
    assert len("".join(examples.notes)) < 1000


def test_many_settings() -> None:
    with patience(), pytest.raises(ValueError, match="99996 more are unknown"):
        Config.from_mapping({f"setting {i}": 0 for i in range(100_000)})


@pytest.mark.parametrize("unit", ["word ", "é"])
def test_a_run_of_long_texts(lm: LM, before_model_work: None, tmp_path: Path, unit: str) -> None:
    long = unit * (LENGTH // len(unit))
    rows: list[dict[str, Any]] = [{**row, "question": f"{long} {row['question']}"} for row in ROWS]
    small: dict[str, Any] = {"num_train": 4, "num_dev": 2, "max_new_tokens": 4}
    with patience():
        for prompt, data, extractor in (
            (PROMPT + long, ROWS, None),
            (PROMPT, rows[:5], None),
            (PROMPT, ROWS, f"Answer: {long}"),
        ):
            config = {**small, "extractor": extractor}
            arguments: dict[str, Any] = {"prompt": prompt, "config": config}
            outcome(lambda d=data, a=arguments: optimize(lm, d, **a, run_dir=tmp_path / "run"))
