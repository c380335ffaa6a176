"""Rows and answers as they were reported, each with its right value."""

from typing import Any

import pytest

from greater_fast.examples.answers import answers_match
from greater_fast.examples.data import load_examples
from greater_fast.examples.splits import make_splits

PRIMES = "Which of these is a prime number?"
CHOICES = [
    (PRIMES, ["21", "22", "23", "24"], "C"),
    (PRIMES, ["31", "32", "33", "34"], "A"),
    ("Which planet is the largest?", ["Mars", "Venus", "Earth", "Jupiter"], "D"),
    ("Which is a mammal?", ["Shark", "Whale", "Trout", "Eel"], "B"),
]
TOWER = [
    ("The tower closes from November to March. It has {} floors.", False),
    ("The tower is open all year. It has {} floors.", True),
]


def by_index(question: str, choices: list[str], letter: str) -> dict[str, Any]:
    return {"question": question, "choices": choices, "answer": "ABCD".index(letter)}


def by_label(question: str, choices: list[str], letter: str) -> dict[str, Any]:
    options = {"label": list("ABCD"), "text": choices}
    return {"question": question, "choices": options, "answerKey": letter}


@pytest.mark.parametrize("form", [by_index, by_label])
def test_choices_are_part_of_the_question(form: Any) -> None:
    rows = load_examples([form(*choice) for choice in CHOICES])
    assert [row.answer for row in rows] == ["C", "A", "D", "B"]
    for row, (question, choices, _) in zip(rows, CHOICES, strict=True):
        assert question in row.question
        assert all(
            f"({letter}) {text}" in row.question
            for letter, text in zip("ABCD", choices, strict=True)
        )
    splits = make_splits(rows, None, None, num_train=2, num_dev=2, seed=0)
    assert len(splits.train) + len(splits.dev) == 4  # the two of one wording are two


def test_passages_tell_rows_apart() -> None:
    rows = [
        {
            "question": "is the tower open in winter",
            "passage": TOWER[number % 2][0].format(number),
            "answer": TOWER[number % 2][1],
        }
        for number in range(6)
    ]
    examples = load_examples(rows)
    assert [example.answer for example in examples] == ["False", "True"] * 3
    assert all(
        row["passage"] in example.question for row, example in zip(rows, examples, strict=True)
    )
    splits = make_splits(examples, None, None, num_train=3, num_dev=3, seed=0)
    assert len({row.question for row in (*splits.train, *splits.dev)}) == 6


@pytest.mark.parametrize(
    ("written", "gold"),
    [(r"$\boxed{\frac{a}{b}}$", r"\frac{a}{b}"), (': "Madrid"', "Madrid")],
)
def test_answers(written: str, gold: str) -> None:
    assert answers_match(written, gold)
