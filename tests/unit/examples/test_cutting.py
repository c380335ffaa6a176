import pytest

from greater_fast.examples.cutting import cut_answer


@pytest.mark.parametrize(
    ("generated", "answer"),
    [
        (": Paris.\n\nSo, the answer is: Paris", "Paris"),
        (":\n\nParis.\n", "Paris"),
        (" Paris. It is", "Paris"),
        (" 3.5. So", "3.5"),
        (" 3.5", "3.5"),
        ("... Paris. It", "Paris"),
        (". Paris.", "Paris"),
        (":\n\\[\n\\boxed{3.5}\n\\]", "\\boxed{3.5}"),
        ("是。因为", "是"),
        ("18। क्योंकि", "18"),
        ("18۔ کیونکہ", "18"),
        (" v1.2.3.", "v1.2.3"),
        (" ] ).", "] )"),
        (":.", ":"),
        (" =.", "="),
        ("", ""),
        ("\n \n", ""),
    ],
)
def test_up_to_a_full_stop(generated: str, answer: str) -> None:
    assert cut_answer(generated, ".") == answer


@pytest.mark.parametrize(
    ("generated", "closing", "answer"),
    [
        ('Paris"\n\nStep 2', '"', "Paris"),
        ('They think."', '"', "They think."),
        ('\n"Paris" is', '"', "Paris"),
        (" 42 $ and $", " $", "42"),
        (" \\$18$ or", "$", "\\$18"),
        ("$\\$18$", "$", "\\$18"),
        (" 42\nand $x$", " $", "42"),
        (" a\n  b </answer> c", " </answer>", "a\n  b"),
        (" a\nb", " </answer>", "a"),
        ("<answer> a\nb </answer> c", " </answer>", "a\nb"),
        ("<answer>a\nb", "</answer>", "a"),
        ("```py\na\nb\n``` </answer>", "</answer>", "```py\na\nb\n```"),
        ("\\frac{1}{2}} is", "}", "\\frac{1}{2}"),
        ("\\text{B}}", "}", "\\text{B}"),
        ("1{,}000}", "}", "1{,}000"),
        ("\\{1, 2\\}} and", "}", "\\{1, 2\\}"),
        ("18 } 19 }", " }", "18"),
        ("a{b c", "}", "a{b c"),
        ("\\boxed{5}}", "}", "\\boxed{5}"),
        ("a}\nb}", "}", "a"),
        ("18}\nso}.", "}.", "18"),
        ("\\frac{1}{2}}$", "}$", "\\frac{1}{2}"),
        ("(B)", ")", "(B)"),
        ("B) or (C)", ")", "B"),
        ("f(x)(y)) z", ")", "f(x)(y)"),
        ("[1, [2, [3]]]] z", "]", "[1, [2, [3]]]"),
        ("\\", "}", "\\"),
        ("42 and more", "", "42 and more"),
        (":\n42\nmore", "", "42"),
    ],
)
def test_up_to_a_mark_or_the_end_of_the_line(generated: str, closing: str, answer: str) -> None:
    assert cut_answer(generated, closing) == answer
