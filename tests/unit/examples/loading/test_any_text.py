"""Any text comes back out of any form of file."""

import csv
import io
import json
import re

import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from greater_fast.examples.data import load_examples

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
rows_of_text = st.lists(
    st.fixed_dictionaries(
        {"question": texts, "answer": texts.filter(lambda text: "#" not in text)}
    ),
    min_size=1,
)


def in_csv(rows):
    file = io.StringIO()
    writer = csv.DictWriter(file, ["question", "answer"], quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


@pytest.mark.parametrize(
    "to_text",
    [
        in_csv,
        json.dumps,
        lambda rows: "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        lambda rows: " ".join(json.dumps(row, indent=1) for row in rows),
        lambda rows: pd.DataFrame(rows).to_json(orient="split"),
        lambda rows: pd.DataFrame(rows).to_json(orient="columns"),
    ],
)
def test_any_text_comes_back(tmp_path, to_text):
    @settings(max_examples=40, deadline=None)
    @given(rows_of_text)
    def check(rows):
        expected = [(load_one(row["question"]), load_one(row["answer"])) for row in rows]
        assume(all(question and answer for question, answer in expected))
        path = tmp_path / "rows"
        path.write_bytes(to_text(rows).encode())
        examples = load_examples(path)
        assert [(example.question, example.answer) for example in examples] == expected

    check()


def load_one(text):
    """What is to become of a text: line ends are newlines, outer white space goes."""
    return re.sub(r"^\(\s*([A-Za-z])\s*\)$", r"\1", re.sub("\r\n?", "\n", text).strip())
