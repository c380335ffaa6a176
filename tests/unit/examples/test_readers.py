import itertools

import datasets
import pandas as pd
import pytest

from greater_fast.examples import readers
from greater_fast.examples.data import Example, load_examples

ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": "Größe, “x”\n?", "answer": "drei; 3"}]
EXAMPLES = [Example(**row) for row in ROWS]


def message_of(source, columns=None):
    with pytest.raises(ValueError, match=r": got .*; expected .*; ") as caught:
        load_examples(source, columns)
    return str(caught.value)


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


def test_bad_objects():
    assert "data: got the int; expected rows" in message_of(7)
    assert "the list: got no rows" in message_of([])
    assert "the list: got str as row 2; " in message_of([ROWS[0], "text"])
    numbered = pd.DataFrame([["q", "a"]])
    for columns in ({"question": 0, "answer": 1}, {"question": "0", "answer": "1"}):
        assert load_examples(numbered, columns) == [Example("q", "a")]
    twice = pd.DataFrame([["q", "a", "b"]], columns=["question", "answer", "answer"])
    assert "the DataFrame: got the columns question, answer, answer; expected a" in message_of(
        twice
    )


def test_one_split_of_a_dataset_is_asked_for():
    dataset = datasets.Dataset.from_list(ROWS)
    splits = datasets.DatasetDict({"train": dataset, "test": dataset})
    message = message_of(splits)
    assert "the DatasetDict: got the splits train, test; expected one split" in message
    assert "pass one of them, as dataset['train']" in message
    del splits["test"]
    assert load_examples(splits) == EXAMPLES


def test_saved_datasets(tmp_path):
    dataset = datasets.Dataset.from_list(ROWS)
    dataset.save_to_disk(tmp_path / "one")
    assert load_examples(tmp_path / "one") == EXAMPLES
    splits = datasets.DatasetDict({"train": dataset, "test": dataset.select([1])})
    splits.save_to_disk(tmp_path / "two")
    message = message_of(str(tmp_path / "two"))
    assert "got the splits test, train; expected one split of a dataset; pass" in message
    assert load_examples(str(tmp_path / "two" / "test")) == EXAMPLES[1:]
    (tmp_path / "one" / "state.json").write_text("{}")
    assert "got a dataset that cannot be read" in message_of(tmp_path / "one")


def test_rows_without_end_are_refused():
    message = message_of(itertools.repeat(ROWS[0]))
    assert "the repeat: got more than 1,000,000 rows, and no end; expected rows that end" in message
    assert "got more than 1,000,000 rows" in message_of(EXAMPLES[0] for _ in itertools.count())


def test_a_stream_of_rows_is_read_as_far_as_it_ends(monkeypatch):
    ends = datasets.Dataset.from_list(ROWS).to_iterable_dataset()
    assert load_examples(ends) == EXAMPLES
    monkeypatch.setattr(readers, "_MOST_ROWS_OF_UNKNOWN_LENGTH", 20)
    endless = datasets.IterableDataset.from_generator(lambda: itertools.repeat(ROWS[0]))
    assert "got more than 20 rows, and no end" in message_of(endless)
