import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greater_fast.examples.data import load_examples
from greater_fast.examples.loading.template import parse_template

ROW = {
    "question": "Is it open?",
    "passage": "It has 2 floors.",
    "choices": ["yes", "no"],
    "answer": 1,
    "Num Floors": 2,
}


def question_of(template, **changes):
    return load_examples([ROW | changes], template=template)[0].question


@pytest.mark.parametrize(
    ("template", "question"),
    [
        ("{passage}\n{question}", "It has 2 floors.\nIs it open?"),
        ("{ PASSAGE } {num floors}!", "It has 2 floors. 2!"),
        ("{question}\n{options}", "Is it open?\n(A) yes\n(B) no"),
        ("{question}\n{choices}", "Is it open?\n(A) yes\n(B) no"),
        (" {{a}} {question} {b\n", "{a} Is it open? {b"),
        ("{{{question}}} {} {\n}", "{Is it open?} {} {\n}"),
        ("Q\n\n\n{question}\n\n{passage}", "Q\n\n\nIs it open?\n\nIt has 2 floors."),
    ],
)
def test_a_template_says_what_the_question_is(template, question):
    assert question_of(template) == question


def test_a_paragraph_whose_columns_are_all_empty_is_left_out():
    template = "Passage: {passage}\n\nQ: {question} {passage}\n\nAnswer."
    assert question_of(template, passage=None) == "Q: Is it open? \n\nAnswer."


def test_places_without_a_name_stay_and_are_told():
    examples = load_examples([ROW], template="{question} {} %s \\boxed{}")
    assert examples[0].question == "Is it open? {} %s \\boxed{}"
    (note,) = [note for note in examples.notes if note.startswith("template: ")]
    assert note.startswith("template: {} and %s stays in it as it is written")
    assert not any(
        "template: " in n for n in load_examples([ROW], template="{question} {{}}").notes
    )


def test_a_question_named_by_the_user_is_the_templates_question():
    rows = [{"Frage": "f", "question": "no", "passage": "p", "answer": "a"}]
    columns = {"question": "Frage"}
    assert load_examples(rows, columns, "{passage} {question}")[0].question == "p f"
    assert load_examples(rows, columns)[0].question == "Passage: p\n\nFrage: f"


def test_braces_in_the_name_of_a_column_are_no_names():
    row = {"{x} asks": "q", "passage": "p", "answer": "a"}
    (example,) = load_examples([row], {"question": "{x} asks"})
    assert example.question == "Passage: p\n\n{x} asks: q"


def test_a_template_needs_no_question():
    rows = [{"left": "a", "right": "b", "answer": "c"}]
    with pytest.raises(ValueError, match="got the columns left, right, answer; expected"):
        load_examples(rows)
    assert load_examples(rows, template="{left} or {right}")[0].question == "a or b"


def test_letters_only_where_the_options_are_shown():
    assert load_examples([ROW], template="{question}{options}")[0].answer == "B"
    examples = load_examples([ROW], template="{question}")
    assert examples[0].answer == "1"
    assert examples.notes == ("columns not read: passage, choices, Num Floors (see template)",)
    row = {"question": "q", "sol1": "x", "sol2": "y", "label": 1}
    assert load_examples([row], template="{question} A: {sol1} B: {sol2}")[0].answer == "B"
    assert load_examples([row], template="{question} {sol1}")[0].answer == "1"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", "template: got ''; expected names of columns in braces; write for example"),
        ("no column", "template: got 'no column'; expected"),
        (5, "template: got 5; expected"),
        ("{{question}}", "expected names of columns in braces"),
        (
            "{pasage} {question}",
            "template: got {pasage}, where the list has the columns question, passage, choices, "
            "answer, Num Floors; expected names of its columns; pass a template for this data; {{",
        ),
        ("{question} {answer}", "template: got {answer}; expected no column of answers; leave it"),
    ],
)
def test_templates_that_cannot_be_filled(template, message):
    with pytest.raises(ValueError, match=r"^template: got") as caught:
        question_of(template)
    assert message in str(caught.value)


literals = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="{}\n"))


@given(before=literals, between=literals, value=st.text(), other=st.text(min_size=1))
def test_filled_text_is_what_stands_in_the_template(before, between, value, other):
    template = parse_template(f"{before}{{a}}{between}{{b}}")
    assert template.fields == ("a", "b")
    filled = template.filled({"a": value, "b": other})
    assert filled == f"{before}{value}{between}{other}".strip()


def test_the_note_shows_a_template_that_makes_the_same_questions(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, [ROW, ROW | {"passage": ""}])))
    examples = load_examples(path)
    shown = examples.notes[0].split("'")[1].replace("\\n", "\n")
    assert shown == "Passage: {passage}\n\nQuestion: {question}\n\nOptions:\n{options}"
    assert load_examples(path, template=shown) == examples
