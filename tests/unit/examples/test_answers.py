from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greater_fast.examples.answers import (
    answers_match,
    compared_form,
    matching_gold,
    normalise_answer,
)
from greater_fast.examples.marks import in_plain_characters

SAME = [
    ("True", "true", " TRUE ", "True.", "true .", "True...", '"True"', "'true.'", '"true".'),
    ("A", "(A)", "( a )", "(A).", "$A$", "$ A $", "$(A)$", "\\boxed{A}", "$\\boxed{(A)}$", "`A`"),
    ("b", "\\boxed{\\text{B}}", "\\(b\\)", "\\text{ B }", "“B”", "\u2018b\u2019"),
    ("1000", "1,000", "1000.0", "$1,000", "$1,000.00", "$ 1000", "1000.", "+1000", "01000"),
    ("1000", "\\$1,000", "$1000$", "$\\boxed{1,000}$", "€1000", "£1,000.", "(1000)"),
    ("-3", "-3.0", "−3", "$-3", "-$3", "(-3)", "-3.", "-03"),
    ("0", "-0", "0.0", ".0", "000", "$0.00"),
    ("0.5", ".5", "0.50", "$.5"),
    ("12345678", "12,345,678"),
    ("a b", "A  B", "a\n\tb", "a\u00a0b"),
    ("Straße", "STRASSE"),
    ("Monsters, Inc", "monsters, inc."),
    ("U.S.", "u.s"),
    ("\\frac{1}{2}", "\\boxed{\\frac{1}{2}}", "$\\boxed{\\frac{1}{2}}$", "\\(\\dfrac{1}{2}\\)."),
    ("A", "\\boxed{\\text{(A)}}", "\\boxed{\\textbf{A}}.", "**(A)**", "\\mathbf{A}", "Ａ", "（A）"),
    ("Yes", "\\textbf{Yes}", "**Yes**", "*Yes*", "***yes***.", "yes!", "yes,", "**Yes.**", "yes;"),
    ("42", "\\[ \\boxed{42} \\]", "$$42$$", "\\[\n\\boxed{42}\n\\]", "= 42", ": 42", "=42", "42:"),
    ("42", "<answer>42</answer>", "<final_answer> 42. </final_answer>", "Answer: 42", "-> 42"),
    (
        "42",
        "The answer is 42.",
        "**Answer:** 42",
        "The final answer is: $42$.",
        "```\n42\n```",
        "４２",
    ),
    ("1000", "\\boxed{ 1{,}000 }", "1\\,000", "１，０００", "\\$1{,}000.00"),
    ("50%", "50\\%", "50 %", "５０％", "$50\\%$"),
    ("Paris", ": Paris", ":\nParis.", '"Paris"', ': "Paris."', "- Paris", "• Paris", "* Paris"),
    ("是", "是。", "「是」", "“是”。", "『是』", "：是", "是！"),
    ("东京", "「东京」", "《东京》", "【东京】。"),
    ("são", "sa\u0303o", "SÃO"),
    ("oui", "«oui»", "« oui »", "„oui“", "‹oui›"),
    ("12", "１２", "١٢", "१२", "１２．０"),
    ("-5", "－5", "–5", "$-5$", "−5."),
    ("don't", "don’t", "Don‘t"),
    ("हाँ", "हाँ।"),
    ("東京 タワー", "東京\u3000タワー"),
    ("(A) and (B)", "(a) AND (b)."),
]
DIFFERENT = [
    ("(A) and (B)", "A) and (B"),
    ('"yes" or "no"', 'yes" or "no'),
    ("$5 and $6", "5 and 6"),
    ("\\boxed{a} and \\boxed{b}", "a} and \\boxed{b"),
    ("18", "180"),
    ("3", "-3"),
    ("1/2", "0.5"),
    ("50%", "50"),
    ("50%", "0.5"),
    ("1,00", "100"),
    ("1,0000", "10000"),
    ("1$5", "15"),
    ("1e3", "1000"),
    ("1 000", "1000"),
    ("nan", "inf"),
    ("(1, 200)", "1200"),
    ("A", "B"),
    ("- 42", "-42"),
    ("- 42", "42"),
    ("$- 42$", "42"),
    ("5!", "5"),
    ("-5", "5"),
    ("–5", "5"),
    ("18 dollars", "18"),
    ("1.000", "1000"),
    ("1٫000", "1000"),
    ("Rome, Italy", "Rome"),
    ("No", "Not sure"),
    ("St. Louis", "St"),
    ("x = 42", "42"),
    ("> 42", "42"),
    ("__init__", "init"),
    ("<b>x</b>", "<i>x</i>"),
    ("[1, 2]", "1, 2"),
    ("f(x)", "x"),
    ("\\text{a} or \\text{b}", "a} or \\text{b"),
    ("5²", "52"),
    ("", "0"),
]


@pytest.mark.parametrize("texts", SAME, ids=lambda texts: texts[0])
def test_the_same_answer_in_other_forms(texts):
    assert {normalise_answer(text) for text in texts} == {normalise_answer(texts[0])}
    assert all(answers_match(text, texts[0]) for text in texts)


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_different_answers(first, second):
    assert not answers_match(first, second)
    assert not answers_match(second, first)


@pytest.mark.parametrize(
    "text", ["nan", "NaN", "inf", "-Infinity", "1/2", "50%", "1e3", "²", "0x1"]
)
def test_what_only_looks_like_a_number_is_text(text):
    assert normalise_answer(text) == text.casefold()


@pytest.mark.parametrize(
    "text",
    [
        ".",
        "...",
        "$",
        "$$",
        '""',
        "()",
        "( )",
        "\\boxed{}",
        "-",
        "$-",
        ":",
        "!",
        "**",
        "。",
        "] )",
        "<answer></answer>",
        "\\[\\]",
    ],
)
def test_marks_around_nothing_stay(text):
    assert normalise_answer(text) == text


CHOICES = [
    ("A) Paris", "A"),
    ("(A) Paris", "A"),
    ("A)", "A"),
    ("option A", "A"),
    ("**(B)** Rome", "B"),
    ("B. Rome", "B"),
    ("B: Rome", "B"),
    ("[C] Vitamin C", "C"),
    ("(c) oslo.", "C"),
    ("The correct option is (B)", "B"),
    ("The answer is (B) Rome.", "B"),
    ("Choice B: Rome", "B"),
    ("（A）パリ", "A"),
    ("A：巴黎", "A"),
    ("A、巴黎", "A"),
    ("\\boxed{\\textbf{(A) }42}", "A"),
    ("**A**: Paris", "A"),
    ("\\boxed{(A) Paris}", "A"),
    ("(A) Rome, Italy", "A"),
    ("(B) False", "B"),
    ("(A) B", "A"),
    ("- A", "A"),
    ("(C) Not enough info", "C"),
    ("(A) John F. Kennedy", "A"),
    ("A. J. R. R. Tolkien", "A"),
    ("(A) No, because it is late", "A"),
]
NO_CHOICES = [
    ("not A", "A"),
    ("A or B", "A"),
    ("(A) or (B)", "A"),
    ("A) or B", "A"),
    ("(A), (B)", "A"),
    ("(A) and (C)", "A"),
    ("(A) Paris (B) Rome", "A"),
    ("A/B", "A"),
    ("A、B", "A"),
    ("（A）或（B）", "A"),
    ("(A)和B", "A"),
    ("A、B、C", "A"),
    ("A, Paris", "A"),
    ("C++", "C"),
    ("B is correct", "A"),
    ("(A)(B)", "A"),
    ("(A) is not right", "A"),
    ("(A) is incorrect", "A"),
    ("A dog", "A"),
    ("I think so", "I"),
    ("(B) Paris", "A"),
    ("Paris", "A"),
    ("(A) Paris", "Paris"),
    ("optional", "O"),
    ("A: B", "A"),
    ("A. B", "A"),
    ("A: The answer is B", "A"),
    ("A) no, it is B", "A"),
    ("A: wait, B", "A"),
    ("A. Paris B. Rome", "A"),
    ("A) not B", "A"),
    ("(A) not (B)", "A"),
]


@pytest.mark.parametrize(("written", "gold"), CHOICES)
def test_a_letter_is_read_out_of_its_choice(written, gold):
    assert answers_match(written, gold)


@pytest.mark.parametrize(("written", "gold"), NO_CHOICES)
def test_no_letter_is_read_out_of_other_texts(written, gold):
    assert not answers_match(written, gold)


@pytest.mark.parametrize(
    "formula", ["\\frac{1}{2}", "\\sqrt{2}", "$42$", "€5", "x", "x^2 + 1", "(x+1)", "a + b", "f(2)"]
)
def test_a_dash_before_a_formula_is_its_sign(formula):
    assert not answers_match(f"- {formula}", formula)


@pytest.mark.parametrize("lead", ["- ", "... ", ". ", "… ", "-> ", "=", "=> ", "- **Answer:** "])
def test_what_leads_up_to_a_word_goes(lead):
    assert answers_match(f"{lead}Paris", "Paris")


def test_any_gold_answer_is_right():
    golds = ("Ann Lee", "Lee", "A. Lee")
    assert matching_gold("lee.", golds) == "Lee"
    assert matching_gold(": Ann Lee", golds) == "Ann Lee"
    assert matching_gold("Ann", golds) is None
    assert matching_gold("", ("", "x")) is None


def test_an_empty_answer_matches_nothing():
    assert not answers_match("", "")
    assert not answers_match(" \n", "")


def test_numbers_are_exact():
    long = "123456789012345678901234567890123456789"
    assert normalise_answer(long + ".10") == long + ".1"
    assert not answers_match(long, long[:-1] + "8")
    assert not answers_match("0.1", "0.1000000000000000055")
    assert normalise_answer("9" * 10_000) == "9" * 10_000
    assert normalise_answer("0." + "0" * 40 + "10") == "0." + "0" * 40 + "1"


@given(
    st.text(
        st.sampled_from("Aa1 0,.$()[]\"'`-+−–*#:!=<>{}\\%bé（）。１\u0303\n") | st.characters(),
        max_size=12,
    )
)
def test_normalising_twice_changes_nothing_more(text):
    once = normalise_answer(text)
    assert normalise_answer(once) == once
    assert bool(once) == bool(in_plain_characters(text))


@given(st.integers(), st.integers(0, 3), st.sampled_from(["", "$", "€ ", "\\$"]))
def test_numbers_equal_their_written_forms(number, num_zeros, currency):
    fraction = "." + "0" * num_zeros if num_zeros else ""
    sign = "-" if number < 0 else ""
    assert answers_match(f"{sign}{currency}{abs(number):,}{fraction}", str(number))


@given(st.decimals(places=3, allow_nan=False), st.decimals(places=3, allow_nan=False))
def test_numbers_match_exactly_when_they_are_equal(first, second):
    if first.is_finite() and second.is_finite():
        equal = Fraction(first) == Fraction(second)
        assert answers_match(format(first, "f"), format(second, ",f")) == equal


WRITTEN = [text for texts in SAME for text in texts]
CHOICES = ["(A) Paris", "option B", "a", "B: not A", "(b) or (c)", "answer: C.", "A. 5", ""]


@given(st.sampled_from([*WRITTEN, *CHOICES]), st.sampled_from([*WRITTEN, *CHOICES]))
def test_equal_forms_are_answers_that_match(predicted: str, gold: str) -> None:
    """But for a gold answer that is the text of a choice with its letter, or empty."""
    form = compared_form(gold)
    if form == normalise_answer(gold) and form:
        assert (compared_form(predicted) == form) == answers_match(predicted, gold)


def test_a_choice_is_compared_by_its_letter() -> None:
    assert [compared_form(text) for text in CHOICES] == [
        *("a", "b", "a", "b: not a", "(b) or (c)", "c", "a", ""),
    ]


@pytest.mark.parametrize(
    ("predicted", "gold"),
    [
        ("Therefore, the final answer is Yes.", "Yes"),
        ("So the answer is: 18", "18"),
        ("Thus the correct answer is **18**.", "18"),
        ("Therefore, the letter of the right choice is B.", "B"),
        (r"\frac12", r"\frac{1}{2}"),
        (r"\dfrac{1}{2}", r"\frac12"),
    ],
)
def test_a_sentence_that_gives_the_answer_is_the_answer(predicted: str, gold: str) -> None:
    assert answers_match(predicted, gold)


@pytest.mark.parametrize(
    ("predicted", "gold"),
    [("so", "o"), ("Therefore", "for"), (r"\frac123", r"\frac{1}{23}"), ("so it is no", "no")],
)
def test_what_only_begins_so_is_not(predicted: str, gold: str) -> None:
    assert not answers_match(predicted, gold)
