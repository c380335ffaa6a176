import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greater_fast.examples.data import Example
from greater_fast.examples.metrics import METRICS
from greater_fast.report.rows import Row, grouped, paired, when_right


def row(prompt, question, correct=True, **others):
    plain = Row("dev", prompt, "", question, "gold", "predicted", "reasoning", correct, False, None)
    return dataclasses.replace(plain, **others)


def titles(groups):
    return {group.title: [pair.either.question for pair in group.pairs] for group in groups}


def test_rows_that_flipped_come_first():
    outcomes = {"a": (1, 1), "b": (0, 0), "c": (1, 0), "d": (0, 1), "e": (0, 1)}
    rows = [
        row(prompt, question, bool(right[number]))
        for number, prompt in enumerate(("old", "new"))
        for question, right in outcomes.items()
    ]
    found = titles(grouped(paired(rows, "dev", ("old", "new"), 5), 10))
    assert list(found.items()) == [
        ("Right with the new prompt alone", ["d", "e"]),
        ("Right with the initial prompt alone", ["c"]),
        ("Wrong with both", ["b"]),
        ("Right with both", ["a"]),
    ]


def test_of_a_metric_the_largest_changes_come_first():
    values = {"a": (0.1, 0.3), "b": (0.0, 1.0), "c": (0.6, 0.5), "d": (0.5, 0.5)}
    rows = [
        row(prompt, question, metric=pair[number])
        for number, prompt in enumerate(("old", "new"))
        for question, pair in values.items()
    ]
    assert titles(grouped(paired(rows, "dev", ("old", "new"), 4), 10)) == {
        "Better with the new prompt": ["b", "a"],
        "Better with the initial prompt": ["c"],
        "As good with either": ["d"],
    }


def test_what_is_left_out_is_counted():
    rows = [row(prompt, str(n), prompt == "new") for prompt in ("old", "new") for n in range(9)]
    (group,) = grouped(paired(rows, "dev", ("old", "new"), 9), 4)
    assert (len(group.pairs), group.num_left_out, group.num_rows) == (4, 5, 9)


def test_rows_of_another_split_prompt_or_model_are_apart():
    rows = [
        row("old", "q", model="one"),
        row("old", "q", model="two", is_correct=False),
        row("new", "q", model="two"),
        row("new", "q", model="one"),
        row("new", "q", split="test"),
        row("other", "q"),
    ]
    pairs = paired(rows, "dev", ("old", "new"), 1)
    assert [(p.initial.model, p.new.model, p.change) for p in pairs] == [
        *(("one", "one", 0), ("two", "two", 1)),
    ]


def test_a_prompt_that_stayed_has_one_answer_a_row():
    rows = [row("old", "a"), row("old", "b", is_correct=False)]
    found = grouped(paired(rows, "dev", ("old", "old"), 2), 10)
    assert titles(found) == {"Wrong": ["b"], "Right": ["a"]}
    assert all(pair.new is None for group in found for pair in group.pairs)


def test_a_run_cut_off_between_two_rows_shows_those_it_has():
    rows = [row("old", "a"), row("old", "b"), row("new", "a", is_correct=False)]
    pairs = paired(rows, "dev", ("old", "new"), 2)
    assert [pair.new is None for pair in pairs] == [False, True]


def test_of_rows_evaluated_again_the_last_count():
    rows = [row("old", "a", False), row("old", "b", False), row("old", "a"), row("old", "b", False)]
    pairs = paired(rows, "dev", ("old", "old"), 2)
    assert [pair.either.is_correct for pair in pairs] == [True, False]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans()), max_size=12))
def test_every_row_is_in_one_group_also_where_questions_repeat(asked):
    rows = [row("old", q, old) for q, old, _ in asked] + [row("new", q, new) for q, _, new in asked]
    groups = grouped(paired(rows, "dev", ("old", "new"), len(asked)), 100)
    found = [
        (p.initial.question, p.initial.is_correct, p.new.is_correct)
        for g in groups
        for p in g.pairs
    ]
    assert sorted(found) == sorted(asked)


@pytest.mark.parametrize("named", [None, "exact", "numeric", "contains"])
def test_what_is_said_of_a_sum_is_so(named):
    told = when_right(named, named)
    is_right = METRICS[named or "exact"]("7 + 11 = 18", Example("How many?", "18"))
    assert ("7 + 11 = 18 is not 18 unless --metric numeric" in told) == (not is_right)
    assert ("7 + 11 = 18 is 18" in told) == (named == "numeric")


def test_every_metric_has_its_own_sentence():
    told = [when_right(named, named) for named in METRICS]
    assert len(set(told)) == len(METRICS)
    assert "by metric" not in " ".join(told)


def test_a_function_counts_what_it_makes_of_an_answer():
    assert when_right(None, "near") == (
        "An answer counts what the function near makes of it, from 0 to 1."
    )
    assert "metric of a later version" in when_right("of a later version", None)
