import csv
import json
import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from greater_fast.examples.data import Example, load_examples

ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": "Größe, “x”\n?", "answer": "drei; 3"}]
EXAMPLES = [Example(**row) for row in ROWS]


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
    "json of the hub": json.dumps(
        {
            "features": [{"feature_idx": 0, "name": "question", "type": {"dtype": "string"}}],
            "rows": [
                {"row_idx": n, "row": row, "truncated_cells": []} for n, row in enumerate(ROWS)
            ],
            "num_rows_total": 2,
        }
    ),
    "json lines of the hub": "\n".join(json.dumps({"row_idx": 0, "row": row}) for row in ROWS),
    "json under another name": json.dumps({"instances": ROWS}),
    "json objects one after another": "".join(map(json.dumps, ROWS)),
    "json objects with line breaks": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "csv with carriage returns": csv_text(ROWS, line_end="\r"),
    "csv with an unnamed index": csv_text([{"": str(n), **row} for n, row in enumerate(ROWS)]),
    "csv with empty columns": csv_text(ROWS).replace("\n", ",,\n").replace("”,,", "”"),
    "csv whose index has no header": "question,answer\n"
    + csv_text([{"0": str(n), **row} for n, row in enumerate(ROWS)]).split("\n", 1)[1],
    "csv": csv_text(ROWS),
    "csv CRLF": csv_text(ROWS, line_end="\r\n"),
    "tsv": csv_text(ROWS, "\t"),
    "semicolons": csv_text(ROWS, ";"),
    "csv after blank lines": "\n\n" + csv_text(ROWS) + ",\n\n",
    "byte order mark, csv": b"\xef\xbb\xbf" + csv_text(ROWS).encode(),
    "byte order mark, json": b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
    "parquet": parquet_bytes(ROWS),
}


FORMATS |= {
    f"json of pandas, {orient}": pd.DataFrame(ROWS * 3).to_json(orient=orient)
    for orient in ("columns", "index", "split", "records", "table")
}


@pytest.mark.parametrize("ending", ["", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("form", FORMATS)
def test_the_content_decides_the_format(write, form, ending):
    path = write(FORMATS[form], "rows" + ending)
    expected = EXAMPLES * 3 if "pandas" in form else EXAMPLES
    assert load_examples(path) == expected
    assert load_examples(str(path)) == expected


@pytest.mark.parametrize("orient", ["columns", "index"])
@pytest.mark.parametrize("index", [["a", "b"], ["1", "2"], ["question", "b"]])
def test_pandas_forms_of_a_named_index(write, orient, index):
    assert load_examples(write(pd.DataFrame(ROWS, index=index).to_json(orient=orient))) == EXAMPLES


@pytest.mark.parametrize("orient", ["columns", "index"])
def test_pandas_forms_of_columns_that_the_user_names(write, orient):
    named = {"question": "frage", "answer": "antwort"}
    path = write(pd.DataFrame(ROWS).rename(columns=named).to_json(orient=orient))
    assert load_examples(path, named) == EXAMPLES


def test_a_column_called_row_is_a_column(write):
    row = {"question": "q", "answer": "a", "row": {"question": "no", "answer": "no"}}
    assert load_examples(write(json.dumps([row]))) == [Example("q", "a")]


def test_squads_file_is_unpacked(write):
    asked = [{"question": f"q{n}", "id": n, "answers": [{"text": "a"}]} for n in (1, 2)]
    paragraphs = [{"context": "c1", "qas": asked}, {"context": "c2", "qas": asked[:1]}]
    file = {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}
    examples = load_examples(write(json.dumps(file)), template="{context} {question}")
    assert examples == [Example("c1 q1", "a"), Example("c1 q2", "a"), Example("c2 q1", "a")]


def test_fields_may_be_long_and_the_limit_of_the_csv_module_stays(write):
    limit = csv.field_size_limit()
    rows = [{"question": "a, " * 100_000 + "b", "answer": "c" * 200_000}]
    example = load_examples(write(csv_text(rows)))[0]
    assert (example.question, example.answer) == tuple(rows[0].values())
    assert "got broken CSV" in message_of(write('question,answer\n"a" b,c\n'))
    headers_too = write("q" * 140_000 + ",answer\na,b\n")
    assert f"got the columns {'q' * 59}…, answer; expected" in message_of(headers_too)
    assert csv.field_size_limit() == limit


names_of_labels = {"info": {"features": {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}}}


def test_class_labels_of_a_parquet_file_become_their_names(write):
    table = pa.Table.from_pylist([{"text": "a", "label": 1}, {"text": "b", "label": 0}])
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps(names_of_labels)}), sink
    )
    examples = load_examples(write(sink.getvalue().to_pybytes()))
    assert [example.answer for example in examples] == ["yes", "no"]


def test_one_json_object_is_one_row(write):
    assert load_examples(write(json.dumps(ROWS[0]))) == EXAMPLES[:1]
    assert load_examples(ROWS[0]) == EXAMPLES[:1]


def test_json_lines_may_hold_line_separators(write):
    row = {"question": "a\u2028b\u0085c", "answer": "1"}
    lines = "\n".join([json.dumps(row, ensure_ascii=False)] * 2)
    assert load_examples(write(lines))[0].question == row["question"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "got an empty file"),
        (b"\xef\xbb\xbf \r\n", "got an empty file"),
        ("question,answer\n", "got no rows; expected at least one"),
        ("[]", "got no rows"),
        ('{"data": []}', "got no rows"),
        ("{}", "got an object with nothing in it"),
        ('{"train": {"a": 1}, "answer": [2]}', "got an object with 'train', 'answer'"),
        (
            '{"train": [{"a": 1}], "test": [{"a": 2}, {"a": 3}]}',
            "got rows under each of train, test",
        ),
        ('{"train": [{"a": 1}], "test": [{"a": 2}]}', "got rows under each of train, test"),
        ('{"columns": ["a", "b"], "data": [[1, 2], [3]]}', "got row 2 without the 2 cells"),
        (
            '{"rows": [{"row_idx": 7, "row": {}, "truncated_cells": ["question"]}]}',
            "got row 7 with cells that were cut off; expected whole rows",
        ),
        ('{"question": ["a", "b"], "answer": ["c"]}', "lengths question: 2, answer: 1"),
        (json.dumps({str(n): [0] * (n % 2) for n in range(99)}), "7: 1, … and 91 more"),
        ("[1, 2]", "got int as row 1; expected an object with named columns"),
        ('{"question": "a", "answer": "b"}\n\n{"question": "a}\n', "broken JSON in line 3"),
        ('{"question": "a", "answer": "b"}\n"text"\n', "got str in line 2"),
        ('{"question": "a", "answer": "b"', "got broken JSON in line 1, column 32"),
        ('[\n{"question": "a"},\n{"question" "b"}\n]', "got broken JSON in line 3, column 13"),
        ("question,answer\na,b\nc\n", "got 1 fields in the row that ends in line 3; expected 2"),
        ('question,answer\n"a\nb",c,d\n', "got 3 fields in the row that ends in line 3"),
        ('question,answer\na,b\n"c,d\n', "got broken CSV at or after line 2"),
        ("question,answer,answer\na,b,c\n", "question, answer, answer; expected a name"),
        (b"question,answer\ncaf\xe9,b\n", "got the byte 0xe9 in line 2, which is not UTF-8"),
        ("question,answer\na,b\n".encode("utf-16"), "got the byte 0xff in line 1"),
        (b"question,answer\n\0,b\n", "got binary content"),
        (b"PAR1 and no more", "got a broken parquet file"),
        ("question,reply\na,b\n", "got the columns question, reply; expected question/answer or"),
        ("Once upon a time\nthere was\n", "got the columns Once upon a time; expected"),
        ("x" * 100 + "\n1\n", f"got the columns {'x' * 59}…; expected"),
        (",,\n;\n", "got no rows"),
        (",,\n", "got no rows"),
        ("[" * 9999, "nested too deep"),
        ('[{"question": "a", "answer": ' + "9" * 5000 + "}]", "too long a number"),
        (
            json.dumps([{f"{n}th\x1b[2J": "a"} for n in range(99)]),
            r"6th\x1b[2J, 7th\x1b[2J, … and 91 more; expected question/answer or",
        ),
        (
            '[{"question": "a", "answ\\ud800": "b"}]',
            "got the columns question, answ\\ud800; expected",
        ),
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


def test_a_pipe_is_named_as_one(tmp_path):
    pipe = tmp_path / "rows.jsonl"
    os.mkfifo(pipe)
    message = message_of(str(pipe))
    assert message.startswith(f"{pipe}: got a pipe or a device; expected a JSONL")
    assert message.endswith("; save it as a file first")


def test_unreadable_file(write, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "got Permission denied; expected a readable file" in message_of(write("x"))


@pytest.mark.parametrize("mark", [",", ";"])
def test_a_space_behind_a_delimiter_is_none_of_a_field(tmp_path, mark):
    file = tmp_path / "rows.csv"
    file.write_text(f'question{mark} answer\n"What{mark} is it?"{mark} "Paris{mark} France"\n')
    assert load_examples(file) == [Example(f"What{mark} is it?", f"Paris{mark} France")]


@pytest.mark.parametrize(
    ("text", "questions"),
    [
        ('question\tanswer\n"We must go.\tA\nHe said we must.\tB\n', ['"We must go.', None]),
        ('question\tanswer\n"Go"\t"A"\n""\t""\n"Run"\t"B"\n', ["Go", "Run"]),
        ('question\tanswer\n"Go" she said\tA\nGo\tB\n', ['"Go" she said', "Go"]),
        ('question\tanswer\n"Go, she said"\tA\r\nGo\tB\n', ["Go, she said", "Go"]),
        ('question\tanswer\n"Go,\nshe said"\tA\nGo\tB\n', ["Go,\nshe said", "Go"]),
        ('question\tanswer\n"a ""b"""\tA\n\nc\tB\n', ['a "b"', "c"]),
    ],
)
def test_quotes_between_tabs_may_be_text(write, text, questions):
    """As GLUE's files have them; where they are marks of the format, they are read so."""
    found = load_examples(write(text, "rows.tsv"))
    assert [example.answer for example in found] == ["A", "B"]
    for example, question in zip(found, questions, strict=True):
        assert question in (None, example.question)


@pytest.mark.parametrize(
    "text",
    [
        'id\tquestion\tanswer\n1\t"We must go.\tA\n2\tHe said we must."\tB\n',
        'question\tanswer\n"see\tthis\ntable"\tA\n',
    ],
)
def test_quotes_between_tabs_that_may_be_either_are_refused(write, text):
    assert "quotes that may be text, or join lines" in message_of(write(text, "rows.tsv"))
