import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greater_fast.examples.data import load_examples
from greater_fast.examples.loading.choices import (
    NUMBER_READINGS,
    READINGS,
    Options,
    letters_of,
    read_options,
)

CITIES = ("Rome", "Oslo", "Bern")


@pytest.mark.parametrize(
    "value",
    [
        list(CITIES),
        ["A) Rome", "B) Oslo", "C) Bern"],
        ["(a) Rome", "(b) Oslo", "(c) Bern"],
        ["A. Rome", "B. Oslo", "C. Bern"],
        ["A)Rome", "B)Oslo", "C)Bern"],
        '["Rome", "Oslo", "Bern"]',
        "['Rome', 'Oslo', 'Bern']",
        "['Rome' 'Oslo'\n 'Bern']",
        "a ) Rome , b ) Oslo , c ) Bern",
        "(A) Rome\n(B) Oslo\n(C) Bern",
        {"text": list(CITIES), "label": ["x", "y", "z"]},
        "{'text': array(['Rome', 'Oslo', 'Bern'], dtype=object), 'label': array(['x', 'y', 'z'],"
        " dtype=object)}",
        {"A": "Rome", "B": "Oslo", "C": "Bern", "D": None},
        [{"label": "x", "text": "Rome"}, {"key": "y", "text": "Oslo"}, {"text": "Bern"}],
        {"Rome": 0, "Oslo": 1.0, "Bern": 0},
    ],
)
def test_forms_of_options(value):
    options = read_options(value)
    assert options is not None
    assert options.texts == CITIES
    assert str(options) == "(A) Rome\n(B) Oslo\n(C) Bern"


@pytest.mark.parametrize(
    "value", ["Rome or Oslo", "[Rome", 3, [["Rome"]], [{"city": [1]}, {}], "(B) x"]
)
def test_what_lists_no_options(value):
    assert read_options(value) is None


def test_marks_stay_where_they_are_none():
    for texts in (["A) x", "C) y"], ["A) x", "y"], ["B) x", "A) y"], ["A)", "B)"]):
        options = read_options(texts)
        assert options is not None
        assert options.texts == tuple(texts)
    assert read_options(None) == read_options("") == Options(())


def test_marks_in_another_order_say_which_option_is_meant():
    rows = [{"question": "q", "options": ["B) x", "A) y"], "answer": "A"}]
    assert load_examples(rows)[0].answer == "B"


def test_a_text_is_the_option_that_equals_it_or_the_only_one_that_differs_in_case():
    options = Options(("May", "may", "March"))
    assert [READINGS["texts"](gold, options) for gold in ("may", "May", "MAY", "march")] == [
        *(1, 0, None, 2)
    ]


def answers(choices, *golds, **others):
    rows = [{"question": "q", "choices": choices, "answer": gold} | others for gold in golds]
    examples = load_examples(rows)
    return "".join(example.answer for example in examples), examples.notes[1]


@pytest.mark.parametrize(
    ("choices", "golds", "letters", "reading"),
    [
        (CITIES, [2, 0], "CA", "numbers from 0"),
        (CITIES, [3, 1], "CA", "numbers from 1"),
        (CITIES, ["2", "0"], "CA", "numbers from 0"),
        (CITIES, [2.0, 0.0], "CA", "numbers from 0"),
        (CITIES, ["c", "(A)", "B)", "B."], "CABB", "letters"),
        (CITIES, ["(C) Bern", "A. Rome"], "CA", "letters"),
        (CITIES, ["bern", "Rome"], "CA", "texts"),
        (CITIES, ["C", "Rome"], "CA", "letters or texts"),
        (["21", "22", "23"], ["23", "21"], "CA", "texts"),
        ([21, 22, 23], [23, 21], "CA", "texts"),
        ([True, False], [False, True], "BA", "texts"),
        ({"label": ["1", "2", "3"], "text": list(CITIES)}, ["3", "1"], "CA", "labels"),
        ({"label": ["1", "2", "3"], "text": list(CITIES)}, [3, 1], "CA", "labels"),
        ({"label": list("xyz"), "text": list(CITIES)}, ["z", "X"], "CA", "labels"),
    ],
)
def test_readings(choices, golds, letters, reading):
    found, note = answers(choices, *golds)
    assert found == letters
    assert note.startswith(f"gold answers, read as {reading}")


def test_a_reading_that_is_in_doubt_is_told():
    assert answers(CITIES, 1, 2)[1] == (
        "gold answers, read as numbers from 0 (numbers from 1 would fit too), become letters of "
        "the options"
    )
    assert "would fit too" not in answers(CITIES, 0, 1, 2)[1]


def test_several_gold_options():
    rows = [{"question": "q", "options": CITIES, "answer": ["B", "C"]}]
    assert load_examples(rows)[0].answers == ("B", "C")


def test_options_a_column_each():
    row = {"Question": "q", "A": "x", "B": "y", "C": "z", "D": "", "Answer": "B"}
    (example,) = load_examples([row])
    assert (example.question, example.answer) == ("q\n\nOptions:\n(A) x\n(B) y\n(C) z", "B")
    row = {"sentence": "s", "option1": "x", "option2": "y", "answer": "1"}
    assert load_examples([row])[0].answer == "A"
    rows = [{"goal": "g", "sol1": "x", "sol2": "y", "label": label} for label in (1, 0)]
    assert [example.answer for example in load_examples(rows)] == ["B", "A"]


def test_wrong_answers_a_column_each_are_shown_in_alphabetical_order():
    row = {
        "Question": "q",
        "Correct Answer": "m",
        "Incorrect Answer 1": "z",
        "Incorrect Answer 2": "a",
    }
    (example,) = load_examples([row])
    assert (example.question, example.answer) == ("q\n\nOptions:\n(A) a\n(B) m\n(C) z", "B")


def test_rows_without_options_keep_their_answers():
    rows = [
        {"question": "q", "choices": CITIES, "answer": "Oslo"},
        {"question": "r", "answer": "b"},
    ]
    examples = load_examples(rows)
    assert [(example.question, example.answer) for example in examples] == [
        ("q\n\nOptions:\n(A) Rome\n(B) Oslo\n(C) Bern", "B"),
        ("r", "b"),
    ]


def test_a_text_that_lists_no_options_stands_as_it_is():
    rows = [{"question": "q", "choices": "Rome or Oslo", "answer": "Oslo"}]
    (example,) = load_examples(rows)
    assert (example.question, example.answer) == ("Question: q\n\nChoices: Rome or Oslo", "Oslo")


@pytest.mark.parametrize(
    ("golds", "place"),
    [
        (["A", "D"], "'D' as an answer of row 2, whose options are Rome, Oslo, Bern; expected in"),
        ([0, 3], "'3' as an answer of row 2"),
        ([0, -1], "'-1' as an answer of row 2"),
        (["Rome", "x" * 500], f"'{'x' * 77}…' as an answer of row 2"),
        (["A", "1"], "'1' as an answer of row 2"),
    ],
)
def test_answers_that_are_no_option(golds, place):
    with pytest.raises(ValueError, match=r"^the list: got .*; expected .*; correct that row, or"):
        answers(CITIES, *golds)
    with pytest.raises(ValueError, match="the list") as caught:
        answers(CITIES, *golds)
    assert place in str(caught.value)


def test_options_that_are_no_unicode():
    with pytest.raises(ValueError, match="got half a surrogate pair in the question of row 1; exp"):
        answers(["a", "\udcff"], 1)


def test_more_options_than_letters():
    with pytest.raises(ValueError, match="got 27 options in row 1; expected at most 26"):
        answers(list(map(str, range(27))), 1)


@given(st.data())
def test_the_letter_is_that_of_the_gold_option_however_it_is_given(data):
    words = st.text(string.ascii_lowercase, min_size=2, max_size=6)
    rows = [
        Options(tuple(texts))
        for texts in data.draw(
            st.lists(st.lists(words, min_size=2, max_size=9, unique=True), min_size=1, max_size=6)
        )
    ]
    gold = [data.draw(st.integers(0, len(row.texts) - 1)) for row in rows]
    expected = [(string.ascii_uppercase[index],) for index in gold]
    texts = [(row.texts[index],) for row, index in zip(rows, gold, strict=True)]
    numbers = [(str(index),) for index in gold]
    assert letters_of(texts, rows, list(READINGS), "data")[0] == expected
    assert letters_of(expected, rows, list(READINGS), "data")[0] == expected
    assert letters_of(numbers, rows, list(NUMBER_READINGS), "data")[0] == expected
