from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greater_fast.examples.data import Example
from greater_fast.examples.splits import SplitCounts, make_splits


def examples(*numbers):
    return [Example(f"question {number}", str(number)) for number in numbers]


def split(train, dev=None, test=None, *, num_train=50, num_dev=100, seed=0):
    return make_splits(train, dev, test, num_train=num_train, num_dev=num_dev, seed=seed)


def message_of(*args, **kwargs):
    with pytest.raises(ValueError, match=r": got .*; expected .*; ") as caught:
        split(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize(
    ("num_rows", "num_train", "num_dev", "sizes"),
    [
        (250, 50, 100, (50, 100)),
        (150, 50, 100, (50, 100)),
        (149, 50, 100, (50, 99)),
        (99, 50, 100, (50, 49)),
        (10, 50, 100, (5, 5)),
        (3, 50, 100, (2, 1)),
        (100, 50, 60, (50, 50)),
        (100, 70, 40, (60, 40)),
        (105, 100, 10, (95, 10)),
    ],
)
def test_dev_rows_drawn_from_the_train_source(num_rows, num_train, num_dev, sizes):
    rows = examples(*range(num_rows))
    splits = split(rows, num_train=num_train, num_dev=num_dev)
    assert (len(splits.train), len(splits.dev)) == sizes
    assert splits.test == ()
    assert not set(splits.train) & set(splits.dev)
    assert splits.train_counts == SplitCounts(num_rows, 0, 0, sizes[0])
    assert splits.dev_counts == SplitCounts(sizes[1], 0, 0, sizes[1])
    num_left = num_rows - sum(sizes)
    left = f"; {num_left} are in neither, for evaluate --run on the same file" if num_left else ""
    assert splits.report == (
        f"train: {sizes[0]} of {num_rows} rows used",
        f"dev: {sizes[1]} of {sizes[1]} rows used, drawn from the train source{left}",
    )


def test_the_seed_decides_and_nothing_else():
    rows = examples(*range(300))
    assert split(rows, seed=1) == split(list(rows), seed=1)
    assert split(rows, seed=1).train != split(rows, seed=2).train
    dev = examples(*range(300, 600))
    assert split(rows, dev, seed=1).train == split(rows, seed=1).train
    assert split(rows, dev, seed=1).dev != split(rows, dev, seed=2).dev


def test_a_draw_stays_the_same_from_version_to_version():
    splits = split(examples(*range(10)), num_train=3, num_dev=3, seed=7)
    assert [row.answer for row in splits.train] == ["4", "7", "9"]
    assert [row.answer for row in splits.dev] == ["0", "3", "5"]


def test_given_dev_and_test_rows():
    splits = split(
        examples(*range(60)), examples(*range(60, 180)), examples(*range(180, 400)), num_dev=100
    )
    assert (len(splits.train), len(splits.dev), len(splits.test)) == (50, 100, 220)
    assert splits.test == tuple(examples(*range(180, 400)))
    assert splits.report == (
        "train: 50 of 60 rows used",
        "dev: 100 of 120 rows used",
        "test: 220 of 220 rows used",
    )


def test_duplicates_are_dropped_and_counted():
    spaced = Example(" question\n 1 ", "another answer")
    splits = split(
        [*examples(1, 2, 1), spaced, *examples(2, 3)],
        [*examples(4, 4, 3, 1, 5), spaced],
        examples(6, 6, 6, 5, 1, 7, 4),
    )
    assert splits.train == tuple(examples(1, 2, 3))
    assert splits.dev == tuple(examples(4, 5))
    assert splits.test == tuple(examples(6, 7))
    assert splits.train_counts == SplitCounts(6, 3, 0, 3, 1)
    assert splits.dev_counts == SplitCounts(6, 2, 2, 2, 1)
    assert splits.test_counts == SplitCounts(7, 2, 3, 2)
    assert splits.report == (
        "train: 3 of 6 rows used, 3 duplicates dropped (1 with another answer: see template, if a "
        "column that tells them apart was not read)",
        "dev: 2 of 6 rows used, 2 duplicates dropped (1 with another answer: see template, if a "
        "column that tells them apart was not read), 2 dropped that are used in train",
        "test: 2 of 7 rows used, 2 duplicates dropped, 3 dropped that are used in train or dev",
    )


def test_a_repeated_question_with_one_of_the_answers_contradicts_nothing():
    rows = [Example("q", "a", ("b",)), Example("q", "b"), *examples(1, 2)]
    assert split(rows).report[0] == "train: 2 of 4 rows used, 1 duplicates dropped"


def test_the_order_of_the_rows_decides_the_draw():
    rows = examples(*range(40))
    assert set(split(rows, num_train=10).train) != set(split(rows[::-1], num_train=10).train)


def test_rows_of_the_source_that_no_set_uses_may_be_tested():
    rows = examples(*range(20))
    splits = split(rows, test=rows, num_train=5, num_dev=5)
    assert set(splits.train) | set(splits.dev) | set(splits.test) == set(rows)
    assert splits.test_counts == SplitCounts(20, 0, 10, 10)


numbers = st.lists(st.integers(0, 30), max_size=40)


@settings(max_examples=200, deadline=None)
@given(
    train=numbers,
    dev=st.none() | numbers,
    test=st.none() | numbers,
    num_train=st.integers(2, 12),
    num_dev=st.integers(1, 12),
    seed=st.integers(),
)
def test_sets_are_disjoint_in_order_and_counted(train, dev, test, num_train, num_dev, seed):
    sources = [examples(*rows) if rows is not None else None for rows in (train, dev, test)]
    try:
        splits = split(*sources, num_train=num_train, num_dev=num_dev, seed=seed)
    except ValueError:
        distinct = [None if rows is None else set(rows) for rows in (train, dev, test)]
        assert (
            len(distinct[0]) < (3 if dev is None else 2)
            or distinct[0] == distinct[1]
            or any(rows is not None and not rows - seen for rows, seen in too_few(distinct))
        )
        return
    used = (splits.train, splits.dev, splits.test)
    assert max(Counter(row for rows in used for row in rows).values()) == 1
    assert 2 <= len(splits.train) <= num_train
    assert 1 <= len(splits.dev) <= num_dev
    for rows, source in zip(used, (sources[0], sources[1] or sources[0], sources[2]), strict=True):
        first_seen = list(dict.fromkeys(source or []))
        assert list(rows) == [row for row in first_seen if row in set(rows)]
    if test is not None:
        assert set(splits.test) == set(sources[2]) - set(splits.train) - set(splits.dev)
    for counts, rows in zip(
        (splits.train_counts, splits.dev_counts, splits.test_counts), used, strict=True
    ):
        assert counts.num_used == len(rows)
        assert counts.num_used + counts.num_repeated + counts.num_shared <= counts.num_given


def too_few(distinct):
    """Each given set with all that the sets before it could use of it."""
    train, dev, test = distinct
    return [(dev, train), (test, train | (dev or set()))]


def test_too_few_rows():
    assert message_of([]).startswith("train: got 0 different questions; expected at least 3")
    message = message_of(examples(1, 2, 2))
    assert "train: got 2 different questions; expected at least 3, as dev is drawn" in message
    message = message_of(examples(1, 1), examples(2))
    assert "train: got 1 different questions; expected at least 2; add training rows" in message


def test_nothing_left():
    message = message_of(examples(1, 2, 3), examples(2, 1, 2))
    assert "dev: got 3 rows, all used in train already; expected at least one of its own" in message
    assert "dev: got no rows; expected at least one" in message_of(examples(1, 2), [])
    message = message_of(examples(1, 2), examples(3), examples(1, 3))
    assert "test: got 2 rows, all used in train or dev already; expected" in message
    assert "or leave test out" in message
    assert "test: got no rows; " in message_of(examples(1, 2), examples(3), [])


def test_train_and_dev_identical():
    for dev in (examples(*range(200)), examples(*reversed(range(200)))):
        message = message_of(examples(*range(200)), dev)
        assert "train and dev are identical" in message
        assert "leave dev out" in message


def test_numbers_out_of_range():
    message = message_of(examples(1, 2, 3), num_train=1)
    assert message == "num_train: got 1; expected at least 2; raise it"
    message = message_of(examples(1, 2, 3), num_dev=0)
    assert message == "num_dev: got 0; expected at least 1; raise it"
