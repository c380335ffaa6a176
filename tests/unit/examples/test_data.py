import csv
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from greater_fast.examples.data import Example, has_columns, load_examples
from greater_fast.examples.golds import in_one_form, spellings
from greater_fast.examples.rendering import name_of, place_of
from greater_fast.examples.splits import make_splits

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": "Größe, “x”\n?", "answer": "drei; 3"}]
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no shared/data beside the checkout")


def message_of(source, columns=None):
    with pytest.raises(ValueError, match=r": got .*; expected .*; ") as caught:
        load_examples(source, columns)
    return str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        ("question", "answer"),
        ("Question", "ANSWER"),
        ("goal", "final_target"),
        ("input", "target"),
        ("text", "label"),
        ("problem", "answer"),
        ("problem", "solution"),
        ("input", "output"),
        ("prompt", "completion"),
        ("query", "response"),
        ("instruction", "output"),
    ],
)
def test_known_columns(names):
    question, answer = names
    assert load_examples([{"id": 7, question: "q", answer: "a"}]) == [Example("q", "a")]


def test_column_sets_have_an_order_and_the_prompt_is_left_out():
    row = {"goal": "g", "target": "no", "final_target": "t", "input": "i"}
    assert load_examples([row]) == [Example("g", "t")]
    row |= {"prompt": "Think.", "question": "q", "answer": "a"}
    assert load_examples([row]) == [Example("q", "a")]


def test_columns_named_by_the_user():
    row = {"Text": "q", "label": 3, "answer": "other"}
    assert load_examples([row], {"question": "text", "answer": "label"}) == [Example("q", "3")]
    assert load_examples([row], {"question": "Text"}) == [Example("q", "other")]
    examples = [Example("q", "a")]
    assert load_examples(examples, {"question": "Text", "answer": "label"}) == examples


def test_an_exact_column_name_wins_over_one_in_another_case():
    row = {"Question": "no", "question": "yes", "answer": "a"}
    assert load_examples([row])[0].question == "yes"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("16 - 3 = <<16-3=13>>13\n#### 13", "13"),
        ("see #### 1\n####  2,125 ", "2,125"),
        ("# A title\n#### A heading\nand text", "# A title\n#### A heading\nand text"),
        ("(A)", "A"),
        (" ( b ) ", "b"),
        ("#### (C)", "C"),
        ("(A) and (B)", "(A) and (B)"),
        ("(AB)", "(AB)"),
        ("(A", "(A"),
        ("a\r\nb\rc", "a\nb\nc"),
        (0, "0"),
        (-3, "-3"),
        (2.5, "2.5"),
        (True, "True"),
        (False, "False"),
        (Decimal("1.50"), "1.50"),
        (np.int64(7), "7"),
        (np.bool_(True), "True"),
        (18.0, "18"),
        (np.float32(0.1), "0.1"),
        (1e-5, "0.00001"),
        (-0.0, "0"),
        (1e300, "1e+300"),
        (float("inf"), "inf"),
        ("18.0", "18.0"),
        (r"We get $\frac{1}{2} + 1 = \boxed{\frac{3}{2}}$.", r"\frac{3}{2}"),
        (r"\boxed{1}, no: \boxed{2}", "2"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\fbox{3} and \boxed {(B)} and {4}", "B"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\text{no end", r"\boxed{\text{no end"),
        (r"\boxed{a} #### 5", "5"),
        ("nan", "nan"),
    ],
)
def test_answers_become_text(value, text):
    assert load_examples([{"question": "q", "answer": value}]) == [Example("q", text)]


@pytest.mark.parametrize(
    ("value", "answers"),
    [
        (["a", "b", "a"], ("a", "b")),
        (("a",), ("a",)),
        (np.array(["a", "b"]), ("a", "b")),
        ([1, 2.0, True], ("1", "2", "True")),
        (["(A)", "#### B", None, ""], ("A", "B")),
        ({"text": ["a", "a", "b"], "answer_start": [1, 1, 5]}, ("a", "b")),
        ([{"text": "a", "answer_start": 1}, {"text": "b", "answer_start": 2}], ("a", "b")),
        ({"value": "Paris", "aliases": ["City", "Paris"], "type": "x"}, ("Paris", "City")),
        ({"spans": ["4", "four"], "types": ["number", "span"]}, ("4", "four")),
    ],
)
def test_several_gold_answers(value, answers):
    (example,) = load_examples([{"question": "q", "answer": value}])
    assert example == Example("q", answers[0], answers[1:])
    assert example.answers == answers


@pytest.mark.parametrize(
    "value",
    [
        "['a', 'b']",
        "['a' 'b']",
        '["a", "b"]',
        "{'text': array(['a', 'b'], dtype=object), 'answer_start': array([1, 2], dtype=int32)}",
    ],
)
def test_lists_of_answers_in_a_csv_file(value):
    assert load_examples([{"question": "q", "answers": value}])[0].answers == ("a", "b")
    assert load_examples([{"question": "q", "answer": value}])[0].answers == (value,)


def test_no_gold_answer_among_several():
    for value in ([], {"text": [], "answer_start": []}, [None, " "]):
        message = message_of([{"question": "q", "answers": value}])
        assert "got 1 empty answers (column 'answers'), in rows 1 (" in message
    nested = "a"
    for _ in range(2000):
        nested = [nested]
    for column in ("answer", "passage"):
        message = message_of([{"question": "q", "answer": "a", column: nested}])
        assert f"got list in column {column!r} of row 1; expected text" in message


def test_aliases_are_gold_answers_too():
    row = {"question": "q", "answer": "a", "answer_aliases": ["b", "a"], "other_answers": ["c"]}
    assert load_examples([row]) == [Example("q", "a", ("b", "c"))]
    told = "any of the answers in answer_aliases, other_answers is right, too"
    assert load_examples([row]).notes == (told,)


def test_loading_examples_again_changes_nothing():
    rows = [{"question": " q\r\n", "answer": ["so #### (A)", "b"], "passage": "p", "id": 1}]
    examples = load_examples(rows)
    assert examples == [Example("Passage: p\n\nQuestion: q", "A", ("b",))]
    again = load_examples(examples)
    assert (again, again.notes) == (examples, examples.notes)
    assert load_examples(list(examples)).notes == ()
    made = load_examples(rows, template="{passage}: {question}")
    again = load_examples(made, template="{passage}: {question}")
    assert (again, again.notes, again.template) == (made, made.notes, made.template)
    assert load_examples(again).template == made.template


def test_a_template_that_comes_too_late_is_refused():
    """It would be written down, and put nothing together."""
    rows = [{"question": "q", "answer": "a", "passage": "p"}]
    plain, made = load_examples(rows), load_examples(rows, template="{passage}\n{question}")
    for examples in (plain, made, plain[:1], made[:1]):
        with pytest.raises(
            ValueError, match=r"put together already, and the template .\{question\}."
        ):
            load_examples(examples, template="{question}")


def test_a_part_of_examples_is_read_as_they_were():
    rows = [{"question": f"q{i}", "answer": "a", "passage": "p"} for i in range(4)]
    made = load_examples(rows, {"question": "question"}, "{passage}: {question}")
    part = made[1:3]
    assert (part, part.template, part.columns) == (
        [Example("p: q1", "a"), Example("p: q2", "a")],
        made.template,
        made.columns,
    )
    assert load_examples(part, template=made.template) == part
    assert made[0] == Example("p: q0", "a")


def test_plain_lists_of_examples_do_not_say_what_they_were_made_by():
    (note,) = load_examples([Example("q", "a")], template="{question}").notes
    assert note.endswith("questions are as they are: the template is not used")


def test_a_note_tells_of_lists_of_answers():
    (note,) = load_examples([{"question": "q", "answer": [1, 2]}, ROWS[0]]).notes
    assert note == "each answer of a list in 'answer' is right"
    assert load_examples([{"question": "q", "answer": [1]}]).notes == ()


def test_a_note_names_the_columns_that_were_not_read():
    rows = [{"id": 1, "question": "q", "answer": "a"}, {"question": "r", "answer": "b", "": 1}]
    assert load_examples(rows).notes == ("columns not read: id, (unnamed) (see template)",)
    assert load_examples([ROWS[0]]).notes == ()
    row = ROWS[0] | {f"c{number}\x1b": 0 for number in range(1000)}
    (note,) = load_examples([row]).notes
    assert note.startswith("columns not read: c0\\x1b, c1\\x1b, ")
    assert note.endswith("c7\\x1b, … and 992 more (see template)")


def test_chats():
    system, user, assistant = (
        {"role": role, "content": role[0]} for role in ("system", "user", "assistant")
    )
    assert load_examples([{"messages": [user, assistant]}]) == [Example("u", "a")]
    assert load_examples({"messages": [user, assistant]}) == [Example("u", "a")]  # a row alone
    alone = {"prompt": [system, user], "completion": [assistant]}
    assert load_examples(alone) == load_examples([alone])
    chat = {"id": 1, "messages": [system, user, assistant]}
    assert load_examples([chat]) == [Example("s\n\nu", "a")]
    note, unread = load_examples([chat]).notes
    assert note.startswith("system messages in 'messages' stand at the beginning of the question")
    assert unread == "columns not read: id (see template)"
    turns = [user, assistant, {"role": "user", "content": "v"}, assistant]
    assert load_examples([{"messages": turns}])[0].question == (
        "User: u\n\nAssistant: a\n\nUser: v"
    )
    (note,) = load_examples([{"messages": turns}]).notes
    assert note == "chats of several turns in 'messages' became one question each"
    assert load_examples([{"messages": [user, assistant]}]).notes == ()
    shared = [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]
    assert load_examples([{"conversations": shared}]) == [Example("u", "a")]
    halves = {"prompt": [system, user], "completion": [assistant]}
    (example,) = found = load_examples([halves])
    assert (example, len(found.notes)) == (Example("s\n\nu", "a"), 1)
    assert load_examples([{"messages": [{**system, "content": ""}, user, assistant]}]).notes == ()
    message = message_of([{"messages": [system, user]}])
    assert "got a chat that ends with 'user' in column 'messages' of row 1; expected" in message


def test_a_chat_beside_columns_of_its_own():
    """An answer of its own is the gold one; beside question and answer a chat is not read."""
    user, assistant = {"role": "user", "content": "u"}, {"role": "assistant", "content": "so 17"}
    both = [{"messages": [user, assistant], "question": "q", "answer": "18"}]
    assert load_examples(both) == [Example("q", "18")]
    assert load_examples(both).notes == ("columns not read: messages (see template)",)
    assert load_examples([{"messages": [user, assistant], "answer": "18"}]) == [Example("u", "18")]
    asked = [{"messages": [{"role": "system", "content": "s"}, user], "answer": "18"}]
    assert load_examples(asked) == [Example("s\n\nu", "18")]
    assert load_examples([{"messages": [user], "ground_truth": "18"}]) == [Example("u", "18")]
    prompt = [{"prompt": [{"role": "system", "content": "s"}, user], "answer": "18"}]
    assert load_examples(prompt) == [Example("s\n\nu", "18")]
    assert load_examples(prompt).notes[0].startswith("system messages in 'prompt' stand")
    assert load_examples(prompt, {"question": "prompt"}) == load_examples(prompt)
    assert len(load_examples(prompt, {"question": "Prompt"}).notes) == 1
    beside = [{"prompt": prompt[0]["prompt"], "completion": "18"}]
    assert load_examples(beside, {"question": "prompt"}) == [Example("s\nu", "18")]
    whole = [{"dialogue": [user, assistant]}]
    assert load_examples(whole, {"question": "dialogue"}) == [Example("u", "so 17")]
    both = [{"prompt": [user], "completion": [assistant], "answer": "18"}]
    assert load_examples(both) == [Example("u", "18")]
    assert load_examples(both).notes == ("columns not read: completion (see template)",)
    assert load_examples([{"messages": [user], "gold": "18"}]) == [Example("u", "18")]
    safe = [{"messages": [user, assistant], "gold_label": "safe"}]
    assert load_examples(safe) == [Example("u", "so 17")]
    named = [{"messages": [user], "q": "q", "a": "18"}]
    assert has_columns(named, {"question": "q", "answer": "a"})
    assert load_examples(named, {"question": "q", "answer": "a"}) == [Example("q", "18")]
    scored = [{"messages": [user, assistant], "label": True}]
    assert load_examples(scored) == [Example("u", "so 17")]


def test_messages_in_parts():
    parts = [{"type": "text", "text": "u"}, {"type": "text", "text": "v"}]
    user, assistant = {"role": "user", "content": parts}, {"role": "assistant", "content": "a"}
    assert load_examples([{"messages": [user, assistant]}]) == [Example("u\nv", "a")]
    user["content"] = [*parts, {"type": "image"}]
    with pytest.raises(ValueError, match="a message without a text in column 'messages' of row 1"):
        load_examples([{"messages": [user, assistant]}])


@pytest.mark.parametrize("key", ["stem", "text", "question"])
def test_a_question_that_holds_its_options(key):
    row = {"question": {key: "Which?", "options": ["Rome", "Oslo"]}, "answer": "B"}
    assert load_examples([row]) == [Example("Which?\n\nOptions:\n(A) Rome\n(B) Oslo", "B")]
    passage = {"question": {"title": "T", "text": "Which?"}, "answer": "B"}
    assert load_examples([passage]) == [Example("T\nWhich?", "B")]


def test_importing_the_module_imports_no_data_library():
    package = Path(__file__).resolve().parents[3] / "greater_fast"
    code = f"""
import sys, types
package = types.ModuleType("greater_fast")  # without what its __init__.py imports
package.__path__ = [{str(package)!r}]
sys.modules["greater_fast"] = package
import greater_fast.examples.splits
print({{"datasets", "pyarrow", "numpy", "torch"}} & set(sys.modules))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_bad_columns_argument():
    for columns in ({}, {"question": "a", "prompt": "b"}):
        assert f"columns: got the keys {list(columns)}" in message_of(ROWS, columns)
    message = message_of(ROWS, {"question": "text", "answer": "label"})
    assert "got the columns question, answer; expected text/label; rename them" in message


@needs_shared
@pytest.mark.parametrize(
    ("file", "num_examples", "num_kinds"),
    [
        ("BBH/boolean_expressions.json", 250, 2),
        ("BBH/causal_judgement.json", 187, 2),
        ("BBH/hyperbaton.json", 250, 2),
        ("BBH/movie_recommendation.json", 250, 6),
        ("BBH/multistep_arithmetic_two.json", 250, None),
        ("BBH/object_counting.json", 250, None),
        ("BBH/sports_understanding.json", 250, 2),
        ("BBH/tracking_shuffled_objects_five_objects.json", 250, 5),
        ("FOLIO/dev.csv", 100, 3),
        ("FOLIO/train.csv", 100, 3),
        ("GSM8K/test_first400.jsonl", 400, None),
        ("GreaterPrompt/boolean_expressions.jsonl", 5, 2),
        ("GreaterPrompt/date_understanding.jsonl", 5, 3),
        ("GreaterPrompt/movie_recommendation.jsonl", 250, 6),
        ("GreaterPrompt/multistep_arithmetic.jsonl", 5, None),
    ],
)
def test_files_of_existing_users_load_as_they_are(file, num_examples, num_kinds):
    examples = load_examples(SHARED / file)
    assert len(examples) == num_examples
    answers = {example.answer for example in examples}
    assert not any("(" in answer or "####" in answer for answer in answers)
    if num_kinds is None:
        assert all(Decimal(answer.replace(",", "")).is_finite() for answer in answers)
    else:
        assert len(answers) == num_kinds


@needs_shared
def test_first_rows_of_existing_users():
    assert load_examples(SHARED / "GSM8K/test_first400.jsonl")[0].answer == "18"
    first = Example("not ( True ) and ( True ) is", "False")
    assert load_examples(SHARED / "BBH/boolean_expressions.json")[0] == first
    assert load_examples(SHARED / "GreaterPrompt/boolean_expressions.jsonl")[0] == first
    folio = load_examples(SHARED / "FOLIO/dev.csv")[0]
    assert folio.question.startswith("Premise:\nAll kids are young.\n")
    assert folio.question.endswith("(C) Uncertain")
    assert folio.answer == "A"


@needs_shared
def test_bbh_questions_equal_those_of_the_csv_module():
    path = SHARED / "BBH/causal_judgement.json"
    with path.open(encoding="utf-8", newline="") as file:
        expected = [row["goal"].strip() for row in csv.DictReader(file)]
    assert [example.question for example in load_examples(path)] == expected


def test_rows_of_a_file_know_where_they_stand(tmp_path):
    """Through the drawing of sets and spellings, and where the rows are read again."""
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"question": f"q{n}", "answer": f"{n}.0"}) for n in range(1, 31)]
    path.write_text("\n".join(lines))
    rows = load_examples(str(path))
    assert [row.source for row in rows] == [f"row {n} of {path}" for n in range(1, 31)]
    assert [row.source for row in load_examples(rows)] == [row.source for row in rows]
    splits = make_splits(rows, num_train=5, num_dev=5, seed=0)
    spelled = in_one_form(splits.dev, spellings(row.answer for row in rows))
    for number, row in enumerate((*splits.train, *spelled)):
        place = f"row {row.question[1:]} of {path}"
        assert place_of(row, number) == place
        assert name_of([row], 0) == f"{place} ('{row.question}')"
    assert rows[0] == Example("q1", "1.0")
    listed = load_examples([{"question": "q", "answer": "a"}])
    assert (listed[0].source, place_of(listed[0], 7)) == ("", "row 7")
