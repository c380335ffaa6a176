"""Which columns are read, of the rows of `public_rows.py` and of others."""

from typing import Any

import numpy as np
import pytest

from greater_fast.examples.data import Example, load_examples
from greater_fast.examples.loading.columns import ANSWERS, QUESTIONS, folded
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
        assert [folded(name) for name in names] == list(names)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"Question": "q", "Answer": "its", "Ground Truth": "gold"}, "gold"),
        ({"question": "q", "Expected Answer": "gold"}, "gold"),
        ({"question": "q", "response": "its", "gold": "gold"}, "gold"),
        ({"question": "q", "answer": "a", "gold": True}, "a"),  # how good it is
        ({"prompt": "q", "completion": "text", "label": True}, "text"),  # how good it is
    ],
)
def test_the_gold_column_is_found_by_its_name(row: dict[str, Any], expected: str):
    assert load_examples([row]) == [Example("q", expected)]


def test_names_that_are_spelled_alike_are_told_apart_by_the_exact_one():
    row = {"question": "q", "gold_answer": "a", "gold answer": "b"}
    assert load_examples([row])[0].answer == "a"
    assert load_examples([row], {"answer": "gold answer"})[0].answer == "b"
    with pytest.raises(
        ValueError, match=r"which differ in case, spaces or dashes alone; .*load_ex"
    ):
        load_examples([row], {"answer": "Gold-Answer"})


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


THREE = ["Rome", "Oslo", "Bern"]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ({"answer": 1}, "B"),
        ({"answer": "B"}, "B"),
        ({"correct_answer": "Bern"}, "C"),
        ({"correct_answer_id": 0}, "A"),
    ],
    ids=str,
)
def test_answers_may_be_what_there_is_to_choose_from(answer, letter):
    """By number or letter, or where a column of that name has the correct one."""
    (example,) = load_examples([{"question": "Which?", "answers": THREE, **answer}])
    assert example.question == "Which?\n\nOptions:\n(A) Rome\n(B) Oslo\n(C) Bern"
    assert example.answers == (letter,)


def test_answers_may_all_be_right_and_a_note_says_so():
    row = {"question": "Which?", "answer": "Oslo", "answers": ["Oslo", "Oslo, Norway"]}
    found = load_examples([row])
    assert found[0].answers == ("Oslo", "Oslo, Norway")
    assert "any of the answers in answers is right, too" in found.notes
    named = load_examples([row], columns={"question": "question", "answer": "answer"})
    assert named[0].answers == ("Oslo",)
    assert not any("is right, too" in note for note in named.notes)


def test_every_column_of_further_answers_is_told():
    row = {"question": "Which?", "answer": "Paris", "other_answers": ["Rome", "Oslo"]}
    found = load_examples([row])
    assert found[0].answers == ("Paris", "Rome", "Oslo")
    assert "any of the answers in other_answers is right, too" in found.notes


def test_chats_of_a_data_frame_are_arrays():
    """As parquet is read; and a thought of the assistant's is no part of its answer."""
    chat = [
        {"role": "user", "content": "17 + 1?"},
        {"role": "assistant", "content": "<think>maybe \\\\boxed{17}? no</think>\n\n18"},
    ]
    column = np.empty(1, dtype=object)
    column[0] = np.array(chat, dtype=object)
    for given in ([{"messages": chat}], [{"messages": column[0]}]):
        (found,) = load_examples(given)
        assert (found.question, found.answer) == ("17 + 1?", "18")


def test_a_number_goes_before_options_alone_and_a_reference_before_a_reply():
    row = {"question": "q", "answer": "Oslo", "correct_answer_id": 1}
    assert load_examples([row])[0].answers == ("Oslo",)
    logged = {"user_input": "q", "response": "17", "reference": "18"}
    named = load_examples([logged], {"question": "user_input", "answer": "reference"})
    assert named[0].answers == ("18",)
    asked = {"question": "q", "response": "17", "reference": "18"}
    assert load_examples([asked])[0].answers == ("18",)
    assert load_examples([{"question": "q", "answer": "17", "reference": "18"}])[0].answer == "17"


def test_a_named_answer_may_be_one_of_the_answers():
    row = {"question": "Which?", "answers": THREE, "answer": 1}
    (example,) = load_examples([row], {"question": "question", "answer": "answer"})
    assert (example.question[-8:], example.answers) == ("(C) Bern", ("B",))


@pytest.mark.parametrize("written", ["answer", "output", "response"])
@pytest.mark.parametrize("gold", ["ground_truth", "correct_answer", "expected_answer"])
def test_what_was_written_is_no_gold_answer_beside_one(written, gold):
    found = load_examples([{"question": "q", written: "I think it is 17.", gold: "18"}])
    assert found[0].answers == ("18",)
    assert found.notes == (f"columns not read: {written} (see template)",)
    named = {"question": "question", "answer": written}
    assert load_examples([{"question": "q", written: "17", gold: "18"}], named)[0].answer == "17"


def test_a_text_that_holds_the_question_is_the_whole_example():
    rows = [
        {"question": f"q{n}?", "answer": "18", "text": f"### q{n}? ### Answer: 18"}
        for n in range(2)
    ]
    found = load_examples(rows)
    assert [example.question for example in found] == ["q0?", "q1?"]
    assert found.notes == ("columns not read: text (see template)",)
    aspect = {"query": "battery", "text": "The battery died fast.", "answer": "negative"}
    assert load_examples([aspect])[0].question.startswith("Text: The battery died fast.")
    rows[1]["text"] = "A passage."
    assert load_examples(rows)[1].question == "Text: A passage.\n\nQuestion: q1?"


@pytest.mark.parametrize("gold", ["option_b", "OPTION_B", "b", "Oslo"])
def test_an_option_may_be_named_by_its_column(gold):
    options = {"option_a": "Rome", "option_b": "Oslo", "option_c": "Bern"}
    (example,) = load_examples([{"question": "Which?", **options, "answer": gold}])
    assert example.answers == ("B",)
