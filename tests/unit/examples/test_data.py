import csv
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from greater_fast.examples.data import Example, load_examples

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": "Größe, “x”\n?", "answer": "drei; 3"}]
EXAMPLES = [Example(**row) for row in ROWS]
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no shared/data beside the checkout")


@pytest.fixture
def write(tmp_path):
    def to_file(content, name="rows"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to_file


def message_of(source, columns=None):
    with pytest.raises(ValueError, match=r": got .*; expected .*; ") as caught:
        load_examples(source, columns)
    return str(caught.value)


def csv_text(rows, delimiter=",", line_end="\n"):
    lines = [[*rows[0]], *([*row.values()] for row in rows)]
    cells = [['"' + cell.replace('"', '""') + '"' for cell in line] for line in lines]
    return line_end.join(delimiter.join(line) for line in cells) + line_end


def parquet_bytes(rows):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


FORMATS = {
    "jsonl": "\n".join(json.dumps(row) for row in ROWS),
    "jsonl unescaped, CRLF, blank lines": "\r\n\r\n".join(
        json.dumps(row, ensure_ascii=False) for row in ROWS
    ),
    "json list": json.dumps(ROWS),
    "json data": json.dumps({"version": 1, "data": ROWS}, indent=2),
    "json examples": json.dumps({"canary": "…", "examples": ROWS}),
    "json columns": json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]}),
    "json of pandas": pd.DataFrame(ROWS).to_json(),
    "csv": csv_text(ROWS),
    "csv CRLF": csv_text(ROWS, line_end="\r\n"),
    "tsv": csv_text(ROWS, "\t"),
    "semicolons": csv_text(ROWS, ";"),
    "csv after blank lines": "\n\n" + csv_text(ROWS) + ",\n\n",
    "byte order mark, csv": b"\xef\xbb\xbf" + csv_text(ROWS).encode(),
    "byte order mark, json": b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
    "parquet": parquet_bytes(ROWS),
}


@pytest.mark.parametrize("ending", ["", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("form", FORMATS)
def test_the_content_decides_the_format(write, form, ending):
    path = write(FORMATS[form], "rows" + ending)
    assert load_examples(path) == EXAMPLES
    assert load_examples(str(path)) == EXAMPLES


@pytest.mark.parametrize(
    "source",
    [
        ROWS,
        tuple(ROWS),
        EXAMPLES,
        [ROWS[0], EXAMPLES[1]],
        {"question": [row["question"] for row in ROWS], "answer": [row["answer"] for row in ROWS]},
        {"data": ROWS},
        pd.DataFrame(ROWS),
        datasets.Dataset.from_list(ROWS),
        datasets.Dataset.from_list(ROWS).with_format("numpy"),
        datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    ],
    ids=lambda source: type(source).__name__,
)
def test_rows_in_memory(source):
    assert load_examples(source) == EXAMPLES


def test_generators_of_rows_and_of_examples():
    assert load_examples(row for row in ROWS) == EXAMPLES
    assert load_examples(example for example in EXAMPLES) == EXAMPLES


def test_one_json_object_is_one_row(write):
    assert load_examples(write(json.dumps(ROWS[0]))) == EXAMPLES[:1]
    assert load_examples(ROWS[0]) == EXAMPLES[:1]


def test_json_lines_may_hold_line_separators(write):
    row = {"question": "a\u2028b\u0085c", "answer": "1"}
    lines = "\n".join([json.dumps(row, ensure_ascii=False)] * 2)
    assert load_examples(write(lines))[0].question == row["question"]


@pytest.mark.parametrize(
    "names",
    [
        ("question", "answer"),
        ("Question", "ANSWER"),
        ("goal", "final_target"),
        ("input", "target"),
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
        ("nan", "nan"),
    ],
)
def test_answers_become_text(value, text):
    assert load_examples([{"question": "q", "answer": value}]) == [Example("q", text)]


def test_loading_examples_again_changes_nothing():
    examples = load_examples([{"question": " q\r\n", "answer": "so #### (A)"}])
    assert load_examples(examples) == examples == [Example("q", "A")]


def test_class_labels_become_their_names():
    features = datasets.Features(
        {"input": datasets.Value("string"), "target": datasets.ClassLabel(names=["no", "yes"])}
    )
    rows = [{"input": "a", "target": 1}, {"input": "b", "target": 0}]
    dataset = datasets.Dataset.from_list(rows, features=features)
    assert [example.answer for example in load_examples(dataset)] == ["yes", "no"]
    unlabelled = datasets.Dataset.from_list([{"input": "a", "target": -1}], features=features)
    assert "1 empty answers (column 'target'), in rows 1 " in message_of(unlabelled)


@pytest.mark.parametrize(
    ("source", "call"),
    [
        ("gsm8k", ("gsm8k", "main", "train")),
        ("org/set-1.0::validation", ("org/set-1.0", "main", "validation")),
        ("openai/gsm8k:socratic", ("openai/gsm8k", "socratic", "train")),
        ("openai/gsm8k:socratic:test[:10]", ("openai/gsm8k", "socratic", "test[:10]")),
    ],
)
def test_hub_dataset_names(monkeypatch, source, call):
    calls = []

    def load_dataset(name, config, split):
        calls.append((name, config, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["socratic", "main"])
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_examples(source) == EXAMPLES
    assert calls == [call]


def test_hub_errors(monkeypatch):
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["de", "fr"])
    message = message_of("org/name")
    assert "org/name: got no such file, and no such hub dataset" in message
    assert "it has the configs de, fr: write name:config" in message

    def unreachable(*args, **kwargs):
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    message = message_of("org/name:de")
    assert "(ConnectionError: offline); expected a data file, or a hub dataset name" in message


def test_the_only_config_is_taken(monkeypatch):
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["only"])
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, config, split: datasets.Dataset.from_list([ROWS[config == "only"]]),
    )
    assert load_examples("org/name") == EXAMPLES[1:]


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


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "got an empty file"),
        (b"\xef\xbb\xbf \r\n", "got an empty file"),
        ("question,answer\n", "got no rows; expected at least one"),
        ("[]", "got no rows"),
        ('{"data": []}', "got no rows"),
        ("{}", "got an object with nothing in it"),
        ('{"train": [1], "answer": "x"}', "got an object with 'train', 'answer'"),
        ('{"question": ["a", "b"], "answer": ["c"]}', "lengths {'question': 2, 'answer': 1}"),
        ("[1, 2]", "got int as row 1; expected an object with named columns"),
        ('{"question": "a", "answer": "b"}\n\n{"question": "a}\n', "broken JSON in line 3"),
        ('{"question": "a", "answer": "b"}\n"text"\n', "got str in line 2"),
        ('{"question": "a", "answer": "b"', "got broken JSON in line 1, column 32"),
        ('[\n{"question": "a"},\n{"question" "b"}\n]', "got broken JSON in line 3, column 13"),
        ("question,answer\na,b\nc\n", "got 1 fields in the row that ends in line 3; expected 2"),
        ('question,answer\n"a\nb",c,d\n', "got 3 fields in the row that ends in line 3"),
        ('question,answer\na,b\n"c,d\n', "got broken CSV at or after line 2"),
        ("question,answer,answer\na,b,c\n", "['question', 'answer', 'answer']; expected a name"),
        (b"question,answer\ncaf\xe9,b\n", "got the byte 0xe9 in line 2, which is not UTF-8"),
        ("question,answer\na,b\n".encode("utf-16"), "got the byte 0xff in line 1"),
        (b"question,answer\n\0,b\n", "got binary content"),
        (b"PAR1 and no more", "got a broken parquet file"),
        ("question,reply\na,b\n", "got the columns question, reply; expected question/answer or"),
        ("Once upon a time\nthere was\n", "got the columns Once upon a time; expected"),
        ("x" * 100 + "\n1\n", f"got the columns {'x' * 59}…; expected"),
        ('[{"goal": "a", "target": "b"}]', "got the columns goal, target; expected"),
        ('[{"QUESTION": 1, "Question": 2, "answer": 3}]', "QUESTION, Question, which differ in"),
        ("[{}]", "got the columns (none); expected"),
        (
            '[{"question": "a", "answer": {"b": 1}}]',
            "got dict in column 'answer' of row 1; expected text",
        ),
        (
            '[{"question": "a\\ud800", "answer": "b"}]',
            "got half a surrogate pair in column 'question' of row 1",
        ),
        (
            "question,answer\na,\nb,2\nc, \n",
            "got 2 empty answers (column 'answer'), in rows 1, 3 (the first is 1); expected text",
        ),
        (
            '[{"question": "a", "answer": "b"}, {"answer": "b"}]',
            "got 1 empty questions (column 'question'), in rows 2 (",
        ),
        ('[{"question": "a", "answer": NaN}]', "got 1 empty answers"),
        ('[{"question": "a", "answer": "so ####"}]', "got 1 empty answers"),
        (
            "question,answer\n" + "a,\n" * 9,
            "got 9 empty answers (column 'answer'), in rows 1, 2, 3, 4, 5, … (the first is 1)",
        ),
    ],
)
def test_bad_files(write, content, expected):
    path = write(content)
    message = message_of(path)
    assert message.startswith(f"{path}: got ")
    assert expected in message


def test_missing_files(tmp_path):
    for source in (tmp_path / "gone.jsonl", str(tmp_path / "gone"), "train.jsonl", "./a/b", "a b"):
        assert f"{source}: got no such file; expected a" in message_of(source)
    assert f"{tmp_path}: got a folder; expected a JSONL" in message_of(tmp_path)
    pasted = json.dumps(ROWS * 100)
    assert message_of(pasted).startswith(pasted[:199] + "…: got no such file")


def test_unreadable_file(write, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "got Permission denied; expected a readable file" in message_of(write("x"))


def test_bad_objects():
    assert "data: got the int; expected rows" in message_of(7)
    assert "the list: got no rows" in message_of([])
    assert "the list: got str as row 2; " in message_of([ROWS[0], "text"])
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})
    assert "the DatasetDict: got an object with 'train'; expected" in message_of(splits)
    assert "or one split of a dataset" in message_of(splits)


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
