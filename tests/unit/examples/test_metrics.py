"""Metrics by name on the answers that models write, and what a user's own may give."""

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example as hypothesis_example
from hypothesis import given
from hypothesis import strategies as st

from greater_fast.config import CHOICES
from greater_fast.examples.answers import matching_gold
from greater_fast.examples.data import Example
from greater_fast.examples.metrics import (
    METRICS,
    choice,
    contains,
    exact,
    measured_value,
    name_of_metric,
    named_metric,
    numeric,
)


def example(*golds: str) -> Example:
    return Example("Which?", golds[0], golds[1:])


def test_the_settings_name_them_all() -> None:
    assert CHOICES["metric"] == (None, *METRICS)


@pytest.mark.parametrize(
    ("predicted", "gold"),
    [
        ("18", "18"),
        ("18 dollars", "18"),
        ("18kg", "18 kg"),
        ("about $1,234.50 a year", "1234.5"),
        ("1,234,567", "1234567"),
        ("1{,}000", "1000"),
        ("58,\\!500", "58500"),
        ("\\frac{1}{-2}", "-0.5"),
        ("答案是18", "18"),
        ("共18个", "18"),
        ("120千米", "120"),
        ("120千克", "120 千克"),
        ("3兆瓦", "3"),
        ("-5", "-5"),
        ("−5 °C", "-5"),
        ("- 5", "-5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("x = -3", "-3"),
        ("3 * 6 = 18", "18"),
        ("3 * 6 = 18 = the answer", "18"),
        ("10 - 4", "10"),
        ("10-4 = 6", "6"),
        ("a 10-pound bag", "10"),
        ("5, not 6", "5"),
        ("on 2024-01-02 it was 7", "7"),
        ("Answer:5", "5"),
        ("12 3", "12"),
        ("24/7", "24/7"),
        ("50%", "50"),
        ("50 percent", "50%"),
        (r"50\%", "50"),
        ("1/2", "0.5"),
        ("0.50", "1/2"),
        (r"\frac{1}{2}", ".5"),
        (r"-\dfrac{3}{4}", "-0.75"),
        ("1.5e3", "1500"),
        ("1e-2", "0.01"),
        ("\uff11\uff18", "18"),
        ("١٨", "18"),
        ("18.", "18"),
        ("18, as 3 x 6 is 18", "18"),
        ("**18**", "18"),
        ("9" * 5000, "9" * 5000),
        ("(5)", "5"),
        (r"1.5 \times 10^{3}", "1500"),
        (r"1.5\cdot10^{ -3 }", "0.0015"),
        ("1.5 × 10³ m", "1500"),
        ("1.5×10⁻³", "0.0015"),
        ("$2.5 x 10^-3$", "0.0025"),
        ("5 * 10**3", "5000"),
        ("-1.5E+3", "-1500"),
        ("1,500 × 10^3", "1.5e6"),
        ("2^{10} = 1024", "1024"),
        ("5 m²", "5"),
        (r"90^\circ", "90"),
        (r"90^{\circ}", "90"),
        ("negative 5", "-5"),
        ("it is Negative 1/2.", "-0.5"),
        ("minus $1,000", "-1000"),
        ("minus .5", "-0.5"),
        ("non-negative 5", "5"),
        ("10 minus 4", "10"),
        ("1'000", "1000"),
        ("1’000’000.5", "1000000.5"),
        ("it's '18'", "18"),
    ],
)
def test_the_same_number(predicted: str, gold: str) -> None:
    assert numeric(predicted, example(gold)) == 1.0


@pytest.mark.parametrize(
    ("predicted", "gold"),
    [
        ("", "18"),
        ("none", "18"),
        ("180", "18"),
        ("18.5", "18"),
        ("-18", "18"),
        ("- 18", "18"),
        ("18,19", "18"),
        ("1,8", "1"),
        ("1,0000", "10000"),
        ("58,\\!500", "58"),
        ("0.\\overline{3}", "0"),
        ("18万", "18"),
        ("18 万", "18"),
        ("18千", "18"),
        ("10, 200", "10200"),
        ("12.05.2020", "12"),
        *(("2024-01-02", gold) for gold in ("2024", "1", "2", "-1", "-2", "24")),
        *(("2024–01–02", gold) for gold in ("2024", "1", "2")),
        *(("02/01/2024", gold) for gold in ("2", "1", "2024")),
        *(("3-4", gold) for gold in ("3", "4", "-4", "-1")),
        *(("12:30", gold) for gold in ("12", "30")),
        *(("3:30 pm", gold) for gold in ("3", "30", "3.5")),
        *(("555-1234", gold) for gold in ("555", "1234", "-1234")),
        *(("555 123 4567", gold) for gold in ("555", "123", "4567")),
        *(("10 000", gold) for gold in ("10", "0", "10000")),
        *(("1 1/2", gold) for gold in ("1", "0.5", "1.5")),
        *(("1.2.3", gold) for gold in ("1.2", "2.3", "1", "3")),
        ("10-4", "10"),
        ("1/2/2020", "0.5"),
        ("2^10", "2"),
        ("H2O", "2"),
        ("v1.2", "1.2"),
        ("1/0", "1"),
        ("50%", "0.5"),
        ("0.333333", "1/3"),
        ("10 - 4", "4"),
        ("1e3", "1"),
        ("9" * 5000, "9" * 4999 + "8"),
        *((r"2^{10}", gold) for gold in ("2", "10", "1", "0")),
        *((r"10^{-3}", gold) for gold in ("10", "-3", "3", "0.001")),
        *(("10^-3", gold) for gold in ("10", "-3", "3")),
        *(("2^(10)", gold) for gold in ("2", "10")),
        *((r"2^{\frac{1}{2}}", gold) for gold in ("2", "0.5", "1")),
        *((r"2^{10^{3}}", gold) for gold in ("2", "10", "3")),
        *(("10³", gold) for gold in ("10", "3")),
        *(("2**10", gold) for gold in ("2", "10")),
        *((r"2\sqrt{3}", gold) for gold in ("2", "3")),
        *((r"12.5 \cdot \sqrt[3]{4}", gold) for gold in ("12.5", "12", "1", "3", "4")),
        *(("2√3", gold) for gold in ("2", "3")),
        *(("2 * sqrt(3)", gold) for gold in ("2", "3")),
        *((r"\frac{\sqrt{3}}{2}", gold) for gold in ("3", "2", "1.5")),
        *((r"1\frac{1}{2}", gold) for gold in ("1", "0.5", "5.5")),
        *((r"1.5 \times 10^3", gold) for gold in ("1.5", "10", "3")),
        ("1e9999", "1"),
        ("negative 5", "5"),
        ("minus 5", "5"),
        *(("1'000", gold) for gold in ("1", "0")),
        *(("5'11", gold) for gold in ("5", "11")),
        ("1'0000", "1"),
    ],
)
def test_another_number_or_none(predicted: str, gold: str) -> None:
    assert numeric(predicted, example(gold)) == 0.0


@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-1e9, max_value=1e9),
    st.sampled_from(["{}", "${}", "about {} kg", "x = {}", "it is {}.", "({})", "**{}** apples"]),
    st.booleans(),
)
def test_numbers_are_read_in_every_notation(number: Decimal, around: str, commas: bool) -> None:
    """Against Python's own formatting; a currency sign before a minus sign is a notation too."""
    written = format(number, ",f" if commas else "f")
    assert numeric(around.format(written), example(str(Fraction(number)))) == 1.0
    assert numeric(around.format(written), example(format(number + 1, "f"))) == 0.0


@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-1e4, max_value=1e4),
    st.integers(-30, 30),
    st.sampled_from(
        [
            "{}e{}",
            "{}E{}",
            "{} × 10^{}",
            r"{} \times 10^{{{}}}",
            r"${}\cdot 10^{{{}}}$",
            "{}*10**{}",
        ]
    ),
)
def test_powers_of_ten_are_read_in_every_notation(
    number: Decimal, power: int, notation: str
) -> None:
    written = f"it is {notation.format(number, power)} m"
    value = Fraction(number) * Fraction(10) ** power
    assert numeric(written, example(str(value))) == 1.0
    assert numeric(written, example(str(value + 1))) == 0.0


@pytest.mark.parametrize(
    ("predicted", "gold"),
    [
        ("(A)", "A"),
        ("A.", "A"),
        ("a", "A"),
        ("a)", "(A)"),
        ("A) Paris", "A"),
        ("(A) Paris", "(A) Paris"),
        ("B", "(B)"),
        ("The answer is (B)", "B"),
        ("the correct option is B.", "b"),
        ("option C", "C"),
        ("Option C is correct", "C"),
        ("my choice is C, yes", "C"),
        ("**B**", "B"),
        ("\uff22", "B"),
        ("B because it rains", "B"),
        ("B, since it rains", "B"),
        ("A, since it rains", "A"),
        ("I think that (B) is right", "B"),
        ("not (A), it is (B)", "B"),
        ("So (B): (B) it is", "B"),
        (r"\text{B}", "B"),
        ("B, not A", "B"),
        ("A, not B", "A"),
        ("(B), not (A).", "B"),
        ("A) not B", "A"),
        ("not A but B", "B"),
        ("not (A), but (B)", "B"),
        ("B rather than A", "B"),
        ("option B instead of option A", "B"),
        ("(C) Not enough info", "C"),
        ("A: correct", "A"),
        ("B is right", "B"),
        ("B can be right", "B"),
        ("B is no doubt right", "B"),
        ("B is not only right but best", "B"),
        ("B because A is wrong", "B"),
        ("The answer is B because A is wrong", "B"),
        ("(B) Vitamin B is not stored", "B"),
        ("(B) Cannot be determined", "B"),
        ("B. cannot be determined", "B"),
        ("I think (A) is wrong, (B) is right", "B"),
    ],
)
def test_the_same_choice(predicted: str, gold: str) -> None:
    assert choice(predicted, example(gold)) == 1.0


@pytest.mark.parametrize(
    "predicted",
    [
        "",
        "(B)",
        "Paris",
        "A or B",
        "(A) or B",
        "(A) and (B)",
        "A, B",
        "A dog",
        "The answer is a dog",
        "It is not (A)",
        "(A) is wrong",
        "option A is not it",
        "AB",
        "A: incorrect",
        "(A) Wrong.",
        "A) is incorrect",
        "A. not correct",
        "not A",
        "B, not A",
        "neither A nor B",
        "A, not B, C",
    ],
)
def test_another_choice_or_none(predicted: str) -> None:
    assert choice(predicted, example("A")) == 0.0


@pytest.mark.parametrize("letter", ["B", "(B)", "[B]", "b)", "**(B)**", "Option B", "I think (B)"])
@pytest.mark.parametrize(
    "denial",
    [
        " is wrong",
        " is incorrect.",
        " is not correct",
        " isn't right",
        " is never right",
        " is clearly wrong",
        " is the wrong answer",
        " is impossible",
        " must be false",
        " was not it",
        " would not be right",
        " would be wrong",
        " cannot be right",
        " can not be the answer",
        " can't be it",
        " could not be true",
        ", which is wrong",
    ],
)
def test_a_letter_that_is_denied_is_no_choice(letter: str, denial: str) -> None:
    assert choice(letter + denial, example("B")) == 0.0
    assert choice(f"{letter} is right", example("B")) == 1.0


def test_a_letter_alone_that_cannot_do_something_is_denied_unless_an_option_says_so() -> None:
    for predicted in ("C cannot be known", "C can't explain it"):
        assert choice(predicted, example("C")) == 0.0
    assert choice("C cannot be known", Example("Who?\n(C) Cannot be known", "C")) == 1.0


@pytest.mark.parametrize(
    "question",
    [
        "Is it?\n(A) Incorrect\n(B) Correct",
        "Is it?\nA. incorrect\nB. correct",
        "Is it? A: incorrect, B: correct",
    ],
)
def test_what_an_option_says_is_no_judgement_of_it(question: str) -> None:
    assert choice("A: incorrect", Example(question, "A")) == 1.0
    assert choice("B: incorrect", Example(question, "B")) == 0.0
    assert choice("(B) Correct", Example(question, "B")) == 1.0


@pytest.mark.parametrize(
    ("predicted", "gold"),
    [
        ("It is Paris.", "paris"),
        ("Paris", "Paris"),
        ("(Paris)", "Paris"),
        ("New York City", "york"),
        ("Paris-born", "Paris"),
        ("1,000 dollars", "1000"),
        ("18, 19", "18"),
        ("18.", "18"),
        ("$5", "5"),
        ("5%", "5"),
        ("C++ is", "C++"),
        ("CAFÉ", "cafe\u0301"),
        ("\uff30\uff21RIS", "Paris"),
        ("a “well–known” one", 'well-known"'),
        ("答案是北京市", "北京"),
        ("共18个", "18"),
        ("共18千克", "18"),
        ("答案是18。", "18"),
        ("他买了iPhone手机", "iPhone"),
        ("คำตอบ18บาท", "18"),
        ("the U.S. of A.", "U.S."),
        ("in  the\nold   town", "old town"),
        ("18.0", "18"),
        ("$18.00", "18"),
        ("it costs $1,018.00 today", "1018"),
        ("it is 0.50.", "0.5"),
        ("it is 18.", "18.0"),
        ("(A) Paris", "A"),
    ],
)
def test_the_gold_answer_stands_in_it(predicted: str, gold: str) -> None:
    assert contains(predicted, example(gold)) == 1.0


@pytest.mark.parametrize(
    ("predicted", "gold"),
    [
        ("", "Paris"),
        ("start", "art"),
        ("arts", "art"),
        ("art_1", "art"),
        ("180", "18"),
        ("118", "18"),
        ("18.5", "18"),
        ("18.05", "18"),
        ("18.0.1", "18"),
        ("1.18.0", "1.18"),
        ("1.50", "1"),
        ("0.18", "18"),
        (".18", "18"),
        ("-18", "18"),
        ("18,000", "18"),
        ("1,18", "18"),
        ("2024-01-02", "2024"),
        ("2024-01-02", "02"),
        ("12:30", "12"),
        ("12:30", "30"),
        ("3/4", "3"),
        ("3/4", "4"),
        ("cafés", "café"),
        ("cafe", "café"),
        ("Pari s", "Paris"),
        ("anything", "\u200b"),
        ("共118个", "18"),
        ("共18万", "18"),
        ("共18.5个", "18"),
        ("他买了iPhones手机", "iPhone"),
        ("18जन", "18"),
    ],
)
def test_the_gold_answer_stands_not_in_it(predicted: str, gold: str) -> None:
    assert contains(predicted, example(gold)) == 0.0


TEXTS = st.text(st.sampled_from("aAbB1280 .,-()$%/é\u0301\u200b北\\=^eor"), max_size=12)


@given(TEXTS, TEXTS.filter(str.strip), TEXTS.filter(str.strip))
def test_any_text_is_measured_and_any_gold_answer_counts(
    predicted: str, gold: str, other: str
) -> None:
    for metric in METRICS.values():
        alone = metric(predicted, example(gold)), metric(predicted, example(other))
        assert set(alone) <= {0.0, 1.0}
        assert metric(predicted, example(gold, other)) == max(alone)
        assert metric(predicted, example(other, gold)) == max(alone)


@given(TEXTS, TEXTS.filter(str.strip))
def test_exact_is_what_evaluation_does_without_a_metric(predicted: str, gold: str) -> None:
    assert exact(predicted, example(gold)) == (matching_gold(predicted, [gold]) is not None)


@given(TEXTS, TEXTS.filter(str.strip))
@hypothesis_example("18.0", "18")
@hypothesis_example("$18.00", "18")
@hypothesis_example("(A) Paris", "A")
@hypothesis_example("007", "7")
def test_what_is_exact_is_contained(predicted: str, gold: str) -> None:
    """Any text is a gold answer of itself, too."""
    for row in (example(gold), example(predicted if predicted.strip() else gold)):
        assert contains(predicted, row) >= exact(predicted, row)


@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-1e6, max_value=1e6),
    st.sampled_from(["{}", "${}", "{} €", " = {}.", "({})", "**{}**", "{:,}", r"\boxed{{{}}}"]),
)
def test_a_number_that_is_exact_is_contained(number: Decimal, around: str) -> None:
    gold = example(format(number.normalize(), "f"))
    written = around.format(number)
    assert contains(written, gold) >= exact(written, gold)
    if number >= 0:
        assert contains(f"it is {written} in all", gold) == 1.0


@given(TEXTS.filter(str.strip), st.sampled_from(["{}", "so {}", "{} it is", "well, {}, yes"]))
@hypothesis_example("00", "so {}")
def test_what_is_written_out_is_contained(gold: str, around: str) -> None:
    """Of golds that are a word: the others lose marks, or are joined by what stands beside them."""
    if gold.isalnum() and gold.isascii():
        assert contains(around.format(gold), example(gold)) == 1.0


def test_a_metric_for_other_answers_is_refused() -> None:
    rows = [Example("How many?", "18 eggs"), Example("Is it?", "True")]
    for name in ("numeric", "choice"):
        with pytest.raises(ValueError, match=f"metric: {name} is not for answers such as"):
            named_metric(name, rows)
    with pytest.raises(ValueError, match=r"'True', the gold one of row 1 \('Is it\?'\)"):
        named_metric("numeric", rows)
    assert named_metric("numeric", rows[:1]) is numeric
    assert named_metric("contains", rows) is contains
    assert named_metric(None, rows) is None


class Half:
    """A metric that is an object."""

    def __call__(self, predicted: str, row: Example) -> float:
        return 0.5


def test_a_metric_has_a_name() -> None:
    found = [name_of_metric(metric) for metric in (*METRICS.values(), Half(), None)]
    assert found == [*METRICS, "Half", None]


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (True, 1.0),
        (False, 0.0),
        (0, 0.0),
        (1, 1.0),
        (0.25, 0.25),
        (-0.0, 0.0),
        (np.float32(0.25), 0.25),
        (np.bool_(True), 1.0),
        (np.array(0.5), 0.5),
        (torch.tensor(0.5), 0.5),
        (Fraction(1, 4), 0.25),
        (Decimal("0.25"), 0.25),
    ],
)
def test_numbers_of_any_library_count(given: Any, value: float) -> None:
    assert measured_value(lambda text, row: given, "a", example("a"), "row 3") == value


@pytest.mark.parametrize(
    "given",
    [
        *(-1e-9, 1.0000001, 2, -1, math.nan, math.inf, 50),
        *(None, "0.5", b"1", [0.5], {}, 0.5j, np.array([0.5]), torch.ones(1), object()),
        10**400,
    ],
    ids=lambda given: type(given).__name__,
)
def test_whatever_else_is_refused_with_the_row(given: Any) -> None:
    def mine(text: str, row: Example) -> Any:
        return given

    with pytest.raises(ValueError, match="expected a number from 0 to 1") as caught:
        measured_value(mine, "some text", example("a"), "row 3 ('Which?')")
    message = str(caught.value)
    assert "mine gave" in message
    assert "for row 3 ('Which?') and the answer 'some text'" in message
    if given is None or isinstance(given, int | float | str):
        assert repr(given)[:40] in message


def test_what_a_metric_raises_names_the_row() -> None:
    def mine(text: str, row: Example) -> float:
        return 1 / len(text)

    with pytest.raises(ZeroDivisionError) as caught:
        measured_value(mine, "", example("a"), "row 3 ('Which?')")
    assert caught.value.__notes__ == ["raised by the metric mine for row 3 ('Which?')"]


def test_a_metric_is_called_once() -> None:
    calls: list[tuple[str, Example]] = []

    def mine(text: str, row: Example) -> int:
        calls.append((text, row))
        return 1

    row = example("a")
    measured_value(mine, "text", row, "row 0")
    assert calls == [("text", row)]


@pytest.mark.parametrize(
    ("predicted", "gold", "value"),
    [
        ("pages 10-5", "-5", 0.0),
        ("x = -5", "-5", 1.0),
        ("(-5)", "-5", 1.0),
        ("it is 2.5", ".5", 0.0),
        ("it is .5", ".5", 1.0),
        ("in 2020,300 people came", "2020300", 0.0),
        ("1,300,000 people", "1300000", 1.0),
        ("it is 1,300", "300", 0.0),
    ],
)
def test_a_sign_and_a_comma_belong_to_a_number(predicted: str, gold: str, value: float) -> None:
    assert contains(predicted, example(gold)) == value


@pytest.mark.parametrize("text", [r"2\pi", "2π", r"\frac{2\pi}{3}", r"2 \times \pi"])
def test_a_multiple_of_pi_is_no_number(text: str) -> None:
    assert numeric(text, example("2")) == 0.0
    with pytest.raises(ValueError, match="numeric is not for answers such as"):
        named_metric("numeric", [example(text)])


def test_letters_alone_stand_in_most_texts() -> None:
    with pytest.raises(ValueError, match=r"contains is not for letters alone, such as 'A'.*choice"):
        named_metric("contains", [example("A"), example("b")])
    assert named_metric("contains", [example("A"), example("Paris")]) is contains
    assert named_metric("contains", [example("是")]) is contains
