import pytest

from greater_fast.examples.marks import asked_form, peeled, without_lead


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        (": Paris", "Paris"),
        (":\n\nParis.\n", "Paris.\n"),
        ("\n= 42", "42"),
        ("：\n是。", "是。"),
        ("\n\\[\n\\boxed{42}\n\\]", "\\boxed{42}\n\\]"),
        (":\n$$\n42\n$$", "42\n$$"),
        ("\n```python\nx = 1\n```", "x = 1\n```"),
        ("\n\n- Paris\n- Rome", "Paris\n- Rome"),
        ("**Answer:** 42", "42"),
        ("The answer is:\n42", "42"),
        ("**Final Answer**: 42", "42"),
        ("**Final Answer: 42**", "**Final Answer: 42**"),  # first, the pair around it goes
        ("-> x", "x"),
        ("- 42", "- 42"),
        ("-5", "-5"),
        ("$5", "$5"),
        ("**bold** text", "**bold** text"),
        ("answers vary", "answers vary"),
        ("the answer islands", "the answer islands"),
        ("> 42", "> 42"),
        ("", ""),
    ],
)
def test_what_leads_up_to_an_answer_goes(text: str, rest: str) -> None:
    assert without_lead(text) == rest


@pytest.mark.parametrize(
    ("gold", "asked"),
    [
        ("TRUE", "TRUE"),
        ('"Paris"', "Paris"),
        ("«Paris».", "Paris"),
        ("Paris..", "Paris"),
        ("東京。", "東京"),
        ("3 p.m.", "3 p.m."),
        ("ls .", "ls ."),
        ("cd ..", "cd .."),
        ("U.S.", "U.S."),
        ("It rained. They left.", "It rained. They left"),
        ("Yahoo!", "Yahoo!"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("**Yes**", "Yes"),
        ("$18$", "18"),
        ("$5 off", "$5 off"),
        ("sa\u0303o", "são"),
        ("def f(x):\n    return x", "def f(x):\n    return x"),
        ('{"a": 1}', '{"a": 1}'),
        ("don’t，是", "don’t，是"),
        ("...", "..."),
        ("$", "$"),
    ],
)
def test_a_gold_answer_as_it_is_asked_for(gold: str, asked: str) -> None:
    assert asked_form(gold) == asked
    assert asked_form(asked) == asked


@pytest.mark.parametrize(
    "text", ["\\boxed{a} and \\boxed{b}", "(A) and (B)", "“a” or “b”", "\\(a\\) or \\(b\\)", "{a}"]
)
def test_two_pairs_of_marks_enclose_nothing(text: str) -> None:
    assert peeled(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5!.!", "5!"),
        ("yes!.!", "yes"),
        ("5!!.", "5!!"),
        ("a. . !", "a"),
        ("!.", "!."),
        ("x)!", "x)!"),
    ],
)
def test_marks_behind_in_any_order(text: str, expected: str) -> None:
    assert peeled(text) == expected
