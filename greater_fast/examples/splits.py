"""Disjoint training, development and test rows: seeded, without duplicates, counted."""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from greater_fast.examples.data import Example
from greater_fast.examples.loading.errors import bad_data

_OTHERS = {"dev": "train", "test": "train or dev"}


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """What became of one set's rows; those in none of the last three the sample left out.

    `num_repeated` were dropped as duplicates within the set, `num_contradicting` of them with
    another answer, and `num_shared` as rows of another set.
    """

    num_given: int = 0
    num_repeated: int = 0
    num_shared: int = 0
    num_used: int = 0
    num_contradicting: int = 0


@dataclass(frozen=True, slots=True)
class Splits:
    """The rows of a run, no question in two of the sets, and what was dropped to get there.

    `columns` are those of the training rows that the user named, `readings` say how their gold
    answers became letters of options, and how else they could have.
    """

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    train_counts: SplitCounts
    dev_counts: SplitCounts
    test_counts: SplitCounts
    report: tuple[str, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    readings: tuple[str, ...] = ()


def make_splits(
    train: Sequence[Example],
    dev: Sequence[Example] | None = None,
    test: Sequence[Example] | None = None,
    *,
    num_train: int,
    num_dev: int,
    seed: int,
) -> Splits:
    """Draw at most `num_train` and `num_dev` rows, disjoint; `test` stays whole.

    Without `dev`, its rows are drawn from those of `train`; where these are too few for both,
    training has half of them, or what dev leaves of more. Places are drawn: the same rows in
    another order give other sets. Sampled rows keep their order. Two rows are duplicates when their
    questions, with all that belongs to them, are equal up to white space: the first stays, and a
    question used in train goes from dev, one used in train or dev goes from test. Raises ValueError
    for fewer than 2 training rows, no development row, no test row, and identical train and dev.
    """
    _check_at_least("num_train", num_train, 2)
    _check_at_least("num_dev", num_dev, 1)
    train_rows, num_contradicting = _distinct(train)
    order = _shuffled(len(train_rows), f"{seed}/splits")
    if dev is None:
        if len(order) < num_train + num_dev:
            half = (len(order) + 1) // 2
            num_train = min(num_train, max(half, len(order) - num_dev))
        train_used = _in_order(train_rows, order[:num_train])
        _check_enough(train_used, train_rows, "3, as dev is drawn from them too")
        dev_used = _in_order(train_rows, order[num_train : num_train + num_dev])
        dev_counts = SplitCounts(num_given=len(dev_used), num_used=len(dev_used))
    else:
        _check_different(train_rows, dev)
        train_used = _in_order(train_rows, order[:num_train])
        _check_enough(train_used, train_rows, "2")
        dev_left, dev_counts = _without("dev", dev, _keys(train_used))
        dev_order = _shuffled(len(dev_left), f"{seed}/splits/dev")
        dev_used = _in_order(dev_left, dev_order[:num_dev])
    train_counts = SplitCounts(
        num_given=len(train),
        num_repeated=len(train) - len(train_rows),
        num_used=len(train_used),
        num_contradicting=num_contradicting,
    )
    dev_counts = replace(dev_counts, num_used=len(dev_used))
    test_used: list[Example] = []
    test_counts = SplitCounts()
    report = [_line("train", train_counts), _line("dev", dev_counts)]
    if dev is None:
        report[-1] += ", drawn from the train source"
        if num_left := len(order) - len(train_used) - len(dev_used):
            report[-1] += f"; {num_left} are in neither, for evaluate --run on the same file"
    if test is not None:
        test_used, test_counts = _without("test", test, _keys(train_used) | _keys(dev_used))
        report.append(_line("test", test_counts))
    return Splits(
        train=tuple(train_used),
        dev=tuple(dev_used),
        test=tuple(test_used),
        train_counts=train_counts,
        dev_counts=dev_counts,
        test_counts=test_counts,
        report=tuple(report),
    )


def question_key(question: str) -> str:
    """What two questions share that are the same: white space makes no difference."""
    return " ".join(question.split())


def _keys(examples: Collection[Example]) -> set[str]:
    return {question_key(example.question) for example in examples}


def _distinct(examples: Sequence[Example]) -> tuple[list[Example], int]:
    """The first row of each question, and how many others have an answer that it does not have."""
    first: dict[str, Example] = {}
    num_contradicting = 0
    for example in examples:
        kept = first.setdefault(question_key(example.question), example)
        num_contradicting += example.answer not in kept.answers
    return list(first.values()), num_contradicting


def _without(
    name: str, examples: Sequence[Example], used_keys: Collection[str]
) -> tuple[list[Example], SplitCounts]:
    """The distinct rows of a set that no other set uses; an error if none is left."""
    distinct, num_contradicting = _distinct(examples)
    left = [example for example in distinct if question_key(example.question) not in used_keys]
    if not left:
        got = (
            f"{len(examples)} rows, all used in {_OTHERS[name]} already" if examples else "no rows"
        )
        raise bad_data(name, got, "at least one of its own", f"add rows, or leave {name} out")
    return left, SplitCounts(
        num_given=len(examples),
        num_repeated=len(examples) - len(distinct),
        num_shared=len(distinct) - len(left),
        num_used=len(left),
        num_contradicting=num_contradicting,
    )


def _shuffled(num_rows: int, key: str) -> list[int]:
    order = list(range(num_rows))
    random.Random(key).shuffle(order)
    return order


def _in_order(examples: Sequence[Example], indices: Sequence[int]) -> list[Example]:
    return [examples[index] for index in sorted(indices)]


def _line(name: str, counts: SplitCounts) -> str:
    line = f"{name}: {counts.num_used} of {counts.num_given} rows used"
    if counts.num_repeated:
        line += f", {counts.num_repeated} duplicates dropped"
    if counts.num_contradicting:
        line += (
            f" ({counts.num_contradicting} with another answer: see template, if a column that "
            "tells them apart was not read)"
        )
    if counts.num_shared:
        line += f", {counts.num_shared} dropped that are used in {_OTHERS[name]}"
    return line


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise bad_data(name, str(value), f"at least {least}", "raise it")


def _check_enough(used: Sequence[Example], distinct: Sequence[Example], least: str) -> None:
    if len(used) < 2:
        got = f"{len(distinct)} different questions"
        raise bad_data("train", got, f"at least {least}", "add training rows")


def _check_different(train: Sequence[Example], dev: Sequence[Example]) -> None:
    if dev and _keys(train) == _keys(dev):
        raise bad_data(
            "dev",
            "the questions of train: train and dev are identical",
            "other rows",
            "leave dev out to have its rows drawn from train, disjoint",
        )
