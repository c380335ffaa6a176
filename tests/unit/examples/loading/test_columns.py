"""Which columns are read, of the rows of `public_rows.py` and of others."""

import pytest

from greater_fast.examples.data import load_examples
from greater_fast.examples.loading.columns import ANSWERS, QUESTIONS
from tests.unit.examples.loading.public_rows import ROWS


@pytest.mark.parametrize("name", ROWS)
def test_a_row_with_what_belongs_to_its_question(name):
    row, question, answers = ROWS[name]
    examples = load_examples([row])
    assert (examples[0].question, [*examples[0].answers]) == (question, answers)


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("MMLU", "subject"),
        ("MMLU as CSV", "(unnamed)"),
        ("MMLU-Pro", "answer_index, category"),
        ("ARC", "id"),
        ("CommonsenseQA, ARC as published", "id"),
        ("Alpaca", "text"),
        ("HotpotQA", "supporting_facts"),
        ("StrategyQA", "qid, term, facts"),
        ("HellaSwag", "ctx_a, ctx_b, split"),
        ("MATH-500", "solution"),
        ("FOLIO", "premises-FOL"),
    ],
)
def test_the_other_columns_are_named(name, columns):
    assert load_examples([ROWS[name][0]]).notes[-1] == f"columns not read: {columns} (see template)"


def test_rows_that_differ_beside_the_question_are_different_questions():
    rows = [
        {"question": "q", "passage": passage, "answer": "a", "choices": choices}
        for passage in "pr"
        for choices in (["a", "b"], ["a", "c"])
    ]
    assert len({example.question for example in load_examples(rows)}) == 4


def test_names_are_found_whatever_their_case_and_each_once():
    for names in (QUESTIONS, ANSWERS):
        assert len(set(names)) == len(names)
        assert [name.casefold() for name in names] == list(names)


def test_names_that_differ_in_case_alone_matter_where_they_are_read():
    row = {"question": "q", "answer": "a", "Id": 1, "id": 2}
    assert load_examples([row])[0].question == "q"
    with pytest.raises(ValueError, match="the columns Passage, PASSAGE, which differ in case"):
        load_examples([row | {"Passage": "p", "PASSAGE": "r"}])


def test_a_cell_without_a_text_is_refused_where_it_belongs_to_the_question():
    row = {"question": "q", "answer": "a", "passage": {"page": 3}, "image": object()}
    with pytest.raises(ValueError, match="got dict in column 'passage' of row 1; expected text"):
        load_examples([row])
    assert load_examples([row], template="{question}")[0].question == "q"
