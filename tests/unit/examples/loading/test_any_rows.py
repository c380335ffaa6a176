"""Whatever a user passes becomes examples, or a ValueError."""

import contextlib
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from greater_fast.examples.data import load_examples

texts = st.text(max_size=5) | st.sampled_from(["A", "(B)", "1", "['a' 'b']", '{"a": 1}', "#### A"])
keys = st.sampled_from(
    ["text", "label", "value", "aliases", "title", "sentences", "stem", "role", "content", "A", "B"]
)
cells = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda cell: st.lists(cell, max_size=3) | st.dictionaries(keys, cell, max_size=3),
    max_leaves=5,
)
columns = st.sampled_from(
    [
        *(
            "question",
            "answer",
            "answers",
            "choices",
            "label",
            "passage",
            "messages",
            "text",
            "input",
        ),
        *("A", "B", "answer0", "answer1", "target_scores", "Incorrect Answer 1", "instruction"),
        *("data", "rows", "row", "columns", "features", "paragraphs", "qas", ""),
    ]
)
usual = st.sampled_from([{}, {"question": "q", "answer": "A"}])
rows = st.lists(
    st.builds(lambda row, more: row | more, usual, st.dictionaries(columns, cells, max_size=4)),
    max_size=3,
)
sources = rows | st.dictionaries(columns, cells | rows, max_size=4)
templates = st.none() | st.sampled_from(
    ["{question}", "{options}", "{passage}\n\n{A}", "{choices}"]
)


@settings(max_examples=300, deadline=None)
@given(sources, templates)
def test_rows_in_memory(source, template):
    with contextlib.suppress(ValueError):
        examples = load_examples(source, template=template)
        assert examples
        for example in examples:
            assert example.question
            assert all(example.answers)
            " ".join([example.question, *example.answers, *examples.notes]).encode()


@settings(max_examples=200, deadline=None)
@given(sources)
def test_the_same_rows_from_a_file(tmp_path_factory, source):
    path = tmp_path_factory.mktemp("rows") / "rows.json"
    path.write_text(json.dumps(source))
    try:
        examples = load_examples(source)
    except ValueError:
        return
    assert load_examples(path) == examples


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8")))
def test_any_file(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("files") / "file"
    path.write_bytes(content)
    with contextlib.suppress(ValueError):
        assert load_examples(path)
