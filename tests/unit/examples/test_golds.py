"""One spelling of every gold answer, and an extractor behind which each is read as itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greater_fast.examples.answers import answers_match
from greater_fast.examples.data import Example
from greater_fast.examples.extractor import (
    check_reads_back,
    derive_extractor,
    given_extractor,
    make_extractor,
)
from greater_fast.examples.golds import (
    asked_for,
    describe_changes,
    in_one_form,
    spelling,
    spellings,
)
from tests.cases import TOKENIZERS, layouts_of, tokenizer_lm

# Gold answers, and what a derived extractor makes of the first.
SETS = {
    "abbreviations": (
        ["J. R. Smith", "Dr. Adams", "St. Louis", "U.S. Navy", "Ann Lee"],
        'is "J. R. Smith"',
    ),
    "times": (["3 p.m. on Monday", "No. 5", "approx. 40"], 'is "3 p.m. on Monday"'),
    "prices": (["$5 off", "$10 off", "$5 off", "$10 off"], 'is " $5 off "'),
    "lines": (
        ["first line\nsecond line", "a\nb", "def f(x):\n    return x", "one"],
        "is <answer> first line\nsecond line </answer>",
    ),
    "sentences": (["It rained. They left.", "Yes. It does.", "He ran."], '"It rained. They left"'),
    "labels with full stops": (["Yes.", "No.", "Yes.", "No."], "is $ Yes $"),
    "dotted names": (["Node.js", "v1.2.3", "example.com"], "is Node.js."),
    "scripts": (["Zürich", "東京。", "Ελλάδα"], "is Zürich."),
    "floats": (["18.0", "36.0", "7.0"], "is 18."),
    "labels of mixed case": (["Yes", "yes", "YES", "No", "no"], "is $ Yes $"),
    "JSON": (['{"a": 1}', '{"b": 2}'], 'is {"a": 1}.'),
    "abbreviated ends": (["3 p.m.", "U.S.", "noon"], "is 3 p.m."),
    "quotations": (['He said "no. Go." twice', "ok"], 'is `He said "no. Go." twice`'),
    "brackets": (["] )", "> }", "( ["], "is ] )."),
    "operators": (["+", "-", "=", ":"], "is +."),
    "shell": (["echo $HOME; ls .", "cd .. && ls"], 'is "echo $HOME; ls ."'),
    "templates": (["{name}", "{age}"] * 2, "is {name}."),
    "quoted": (['"Paris"', "'Rome'", "«Oslo»"], "is Paris."),
    "decimals": (["3.5", "1,000.0", "+4", "-2.0"], "is 3.5."),
    "mathematics": (["\\boxed{\\frac{1}{2}}", "$x^2$", "0"], "is \\frac{1}{2}."),
    "letters": (["(A)", "B", "(C)", "A."], "is $ A $"),
}
NAMED = pytest.mark.parametrize(("golds", "written"), SETS.values(), ids=SETS)


@NAMED
def test_reading_an_answer_undoes_writing_it(golds: list[str], written: str) -> None:
    extractor = derive_extractor(golds)
    spelled = spellings(golds)
    first = extractor.in_place() + extractor.answer_in_place(asked_for(golds[0], spelled))
    assert first.endswith(written)
    for gold in (*golds, *spelled.values()):
        assert answers_match(extractor.cut(extractor.answer_in_place(gold)), gold)
        if any(map(str.isalnum, gold)):  # the model may lead up to it, and say more behind it
            around = f":\n{extractor.answer_in_place(gold)}\n\nThat is the answer."
            assert answers_match(extractor.cut(around), gold)
    assert given_extractor(extractor.in_config()).answer_in_place("x") == (
        extractor.answer_in_place("x")
    )


@pytest.mark.parametrize("kind", TOKENIZERS)
@NAMED
def test_the_extractors_ids_are_the_same_for_every_gold(
    kind: str, golds: list[str], written: str
) -> None:
    rows = [Example(f"Question {n}?", gold) for n, gold in enumerate(golds)]
    config = derive_extractor(golds).in_config()
    layouts = layouts_of(tokenizer_lm(kind), in_one_form(rows, spellings(golds)), extractor=config)
    ids, lead = layouts.extractor_ids, layouts.extractor.in_place()
    for number, row in enumerate(layouts.rows):
        whole = lead + layouts.extractor.answer_in_place(row.example.answer)
        assert layouts.vocabulary.ids(whole) == layouts.target_ids(number)
        assert layouts.target_ids(number)[: len(ids)] == ids


def test_an_answer_that_holds_every_closing_is_named() -> None:
    with pytest.raises(ValueError, match=r"no extractor can be derived: 1 gold answers \('a\. b"):
        derive_extractor(['a. b " ` </answer>', "c"])


def test_a_test_rows_answer_is_read_back_too() -> None:
    assert derive_extractor(["one", "two"]).closing == "."
    for searched in (["one", "two"], ["1", "2"]):
        assert derive_extractor(searched, ["No. 5"]).closing == '"'


@pytest.mark.parametrize(
    ("text", "golds", "named"),
    [
        ("It is {answer}.", ["Dr. Adams", "Ann"], "ends an answer at '.', so 1 gold answers"),
        ("It is $", ["$5 off"], r"at '\$', so 1 gold answers \('\$5 off'\)"),
        ("It is", ["a\nb", "c\nd", "e"], 'at "the line\'s end", so 2 gold answers'),
        ("It is {answer}!", ["a! b"] * 2, "so 1 gold answers"),
    ],
)
def test_a_given_extractor_that_cuts_a_gold_answer_is_refused(
    text: str, golds: list[str], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        check_reads_back(make_extractor(text), golds)
    check_reads_back(make_extractor(text), ["one", "18"])


@pytest.mark.parametrize(
    ("gold", "asked"),
    [
        ("18.0", "18"),
        ("18.00", "18"),
        ("18.50", "18.50"),
        ("+4", "4"),
        ("-2.0", "-2"),
        ("1,000.0", "1,000"),
        ("１２", "12"),
        ("0.0", "0"),
        ("$18.0", "$18.0"),
        ("1.0.0", "1.0.0"),
        ("18.0 kg", "18.0 kg"),
        ("007", "007"),
        ("12.000", "12.000"),
    ],
)
def test_whole_floats_are_whole_numbers(gold: str, asked: str) -> None:
    assert spelling(gold) == asked
    assert answers_match(asked, gold)


def test_equal_golds_have_the_commonest_spelling() -> None:
    found = spellings(["yes", "YES", "No", "Yes.", "no", "Yes"])
    assert found == {"yes": "Yes", "no": "No"}
    assert spellings(["OK", "ok"]) == {"ok": "OK"}  # of equals the first
    assert spellings(["TRUE", "FALSE"]) == {"true": "True", "false": "False"}


def test_codes_of_a_fixed_width_are_asked_for_as_they_are() -> None:
    golds = ["0011", "11", "11", "11.0", "00", "0", "-07"]
    spelled = spellings(golds)
    asked = ["0011", "11", "11", "11", "00", "0", "-07"]
    assert [asked_for(gold, spelled) for gold in golds] == asked
    assert all(answers_match(own, gold) for own, gold in zip(asked, golds, strict=True))


def test_examples_in_one_form() -> None:
    rows = [
        Example("1?", "YES"),
        Example("2?", "yes", ("Yes", "18.0", '"ok"')),
        Example("3?", "yes"),
        Example("4?", "new"),
    ]
    found = in_one_form(rows, spellings(["yes", "YES", "yes"]))
    assert [row.answer for row in found] == ["yes", "yes", "yes", "new"]
    assert found[1].answers == ("yes", "18", "ok")
    assert [row.question for row in found] == ["1?", "2?", "3?", "4?"]
    assert [row.as_given for row in found] == rows
    assert [row.answers_given for row in found[2:]] == [(), ()]
    again = in_one_form(found, spellings(["Yes", "Yes", "NEW"]))
    assert again[0].answer == "Yes"
    assert [row.as_given for row in again] == rows
    assert describe_changes(rows, found) == ("answers in one form: 'YES' as 'yes'",)
    assert describe_changes(found, found) == ()


def test_only_some_changes_are_named() -> None:
    rows = [Example(f"{n}?", f"{n}.0") for n in range(9)]
    (line,) = describe_changes(rows, in_one_form(rows, {}))
    assert line == "answers in one form: '0.0' as '0', '1.0' as '1', '2.0' as '2', ..."


@given(st.lists(st.text(st.sampled_from("aB1 .,$\"'`(){}:-\n") | st.characters()), min_size=1))
def test_golds_are_read_back_or_refused(texts: list[str]) -> None:
    golds = [text.strip() for text in texts if text.strip()]
    try:
        extractor = derive_extractor(golds)
    except ValueError:
        return
    spelled = spellings(golds)
    for gold in golds:
        asked = asked_for(gold, spelled)
        assert answers_match(asked, gold)
        assert extractor.reads_back(gold)
        assert extractor.reads_back(asked)
        assert spelling(asked) == asked


def test_no_message_or_note_grows_with_a_gold_answer() -> None:
    long = "x. " * 10_000
    with pytest.raises(ValueError, match="would never be right") as caught:
        check_reads_back(make_extractor("It is {answer}."), [f"{long}y"] * 3)
    before = [Example("q", f"**{long}y**")]
    (note,) = describe_changes(before, in_one_form(before, spellings([before[0].answer])))
    assert len(str(caught.value)) < 1000 > len(note)


@pytest.mark.parametrize("gold", ["- \\frac{1}{2}", "- x^2 + 1", "=SUM(A1)", "-> right", "- yes"])
def test_what_may_be_part_of_a_gold_answer_stays(gold: str) -> None:
    assert spelling(gold) == gold
    assert derive_extractor([gold, "other"]).reads_back(gold)
