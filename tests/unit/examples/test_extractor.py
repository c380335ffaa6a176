import pytest

from greater_fast.examples.extractor import (
    Extractor,
    derive_extractor,
    make_extractor,
    option_letters,
)
from greater_fast.examples.thinking import Thought

MARKS = [("$", "$"), ('"', '"'), ("'", "'"), ("`", "`"), ("(", ")"), ("[", "]"), ("{", "}")]


@pytest.mark.parametrize(
    ("answers", "origin", "text"),
    [
        (["A", "C", "B"] * 4, "choice letters A, B, C", "choice, $ A $ or $ B $ or $ C $, is $"),
        (["A", "C"], "choice letters A, C", "right choice, $ A $ or $ C $, is $"),
        (["12", "7", "-3", "+4"], "numbers", "Therefore, the final answer is"),
        (["1,000", "3.5", "$20", "-$7"], "numbers", "Therefore, the final answer is"),
        (["yes", "no"] * 2, "one of no, yes", "answer, $ no $ or $ yes $, is $"),
        (["True", "False"] * 2, "one of False, True", "$ False $ or $ True $, is $"),
        (["red", "blue", "green"] * 2, "one of blue, green, red", "$ blue $ or $ green $"),
        ([f"city {i}" for i in range(9)], "short text", "Therefore, the final answer is"),
        (["yes", "no", "no"], "short text", "Therefore, the final answer is"),  # too few to tell
        ([f"c{i}" for i in range(13)] * 3, "short text", "Therefore, the final answer is"),
        (["12", "twelve", "3", "x"], "short text", "Therefore, the final answer is"),
    ],
)
def test_derived_from_the_answers(answers: list[str], origin: str, text: str) -> None:
    extractor = derive_extractor(answers)
    assert extractor.origin == f"derived: {origin}"
    assert text in extractor.text
    assert extractor.closing == (" $" if "$" in text else ".")


def test_a_derived_extractor_closes_the_answer() -> None:
    assert derive_extractor(["1", "2"]).answer_in_place("7") == " 7."
    assert derive_extractor(["yes", "no"] * 2).answer_in_place("yes") == " yes $"
    assert derive_extractor(["A", "B"]).answer_in_place("A") == " A $"


def test_the_reader_is_told_which_extractor_it_is() -> None:
    described = derive_extractor(["1", "2"]).describe()
    assert described == "extractor (derived: numbers): 'Therefore, the final answer is {answer}.'"
    assert make_extractor("It is:").describe() == "extractor (given): 'It is: {answer}'"


@pytest.mark.parametrize(("mark", "closing"), MARKS)
def test_marks_and_their_closing(mark: str, closing: str) -> None:
    tight, spaced = make_extractor(f"The answer is {mark}"), make_extractor(f"It is {mark} ")
    assert tight.answer_in_place("42") == f"42{closing}"
    assert spaced.answer_in_place("42") == f" 42 {closing}"
    assert tight.cut(f"42{closing} and more{closing}") == "42"
    assert spaced.cut(f" 42 {closing}") == "42"
    assert spaced.text == f"It is {mark}"


@pytest.mark.parametrize(
    "text",
    [
        "The answer is",
        "The answer is:",
        "It is (A) or (B)",
        'Say "yes" or "no"',
        "It is about $5$",
        "Which is 'a.'",
    ],
)
def test_text_without_an_opening_mark(text: str) -> None:
    extractor = make_extractor(text)
    assert extractor.in_place() == f" {text}"
    assert extractor.answer_in_place("42") == " 42"
    assert extractor.cut(" 42 $ \n next") == "42 $"


@pytest.mark.parametrize(
    ("generated", "answer"),
    [
        ("42", "42"),
        ("42\n43$", "42"),
        (" ", ""),
        ("", ""),
        ("\n42$", "42"),
        (": $42$", "42"),
        (":\n\n$$\n42\n$$", "42"),
        ("$42", "42"),
        ("$42$", "42"),
        ("$$", ""),
        (" a b $", "a b"),
    ],
)
def test_cut_at_a_mark(generated: str, answer: str) -> None:
    assert make_extractor("It is $").cut(generated) == answer


@pytest.mark.parametrize(
    ("generated", "answer"),
    [
        (" 42.", "42"),
        (" 3.5. So", "3.5"),
        (" 3.5", "3.5"),
        (" 4\n.", "4"),
        (".", ""),
        (" a.b. c.", "a.b"),
    ],
)
def test_cut_at_a_full_stop(generated: str, answer: str) -> None:
    assert make_extractor("It is {answer}.").cut(generated) == answer


@pytest.mark.parametrize(
    ("text", "placed", "closing"),
    [
        ("It is {answer}.", " 42.", "."),
        ("It is {answer}", " 42", ""),
        ("It is <{answer}> ", "42>", ">"),
        ("It is $ {answer} $", " 42 $", " $"),
    ],
)
def test_the_answers_place_can_be_named(text: str, placed: str, closing: str) -> None:
    extractor = make_extractor(text)
    assert extractor.answer_in_place("42") == placed
    assert extractor.closing == closing
    assert extractor.cut(f"{placed} and more") == ("42" if closing else "42 and more")


@pytest.mark.parametrize(
    "text", ["The answer is $", "The answer is $ ", "The answer is $\n", "It is", " It is ( ", "$"]
)
def test_round_trip_through_a_config(text: str) -> None:
    extractor = make_extractor(text)
    again = make_extractor(extractor.in_config())
    assert again == extractor
    assert again.answer_in_place("x") == extractor.answer_in_place("x")


@pytest.mark.parametrize("answers", [["A", "B"], ["1", "2"], ["yes", "no"] * 2, ["a b", "c", "d"]])
def test_derived_extractors_survive_a_config(answers: list[str]) -> None:
    extractor = derive_extractor(answers)
    again = make_extractor(extractor.in_config(), extractor.origin)
    assert again == extractor


@pytest.mark.parametrize("text", ["", " ", "\n", "{answer}", " {answer}."])
def test_empty_extractor(text: str) -> None:
    with pytest.raises(ValueError, match="the extractor is empty: give a text that asks"):
        make_extractor(text)


def test_frozen() -> None:
    with pytest.raises(AttributeError):
        make_extractor("a").text = "b"  # type: ignore[misc]
    assert make_extractor("a $") == Extractor("a $", "", "$", "given")


@pytest.mark.parametrize(
    ("questions", "letters"),
    [
        (["Which?\n(A) one\n(B) two\n(C) three", "Which?\n(A) one\n(B) two"], "ABC"),
        (["Which?\nA) one\nB) two", "Which?\nA. one\nB. two\nC. three\nD. four"], "ABCD"),
        (["(A) alone is no choice"], ""),
        (["(B) two\n(C) three"], ""),
        (["It is (A) here and (B) there"], ""),
        (["(A) one\n(C) three"], ""),
    ],
)
def test_letters_of_options(questions: list[str], letters: str) -> None:
    assert option_letters(questions) == tuple(letters)


def test_letters_that_are_no_answer_of_these_rows_are_listed() -> None:
    asked = derive_extractor(["A", "B", "D"], ["A", "B", "D"], tuple("ABCD"))
    assert "$ A $ or $ B $ or $ C $ or $ D $" in asked.text
    assert asked.origin == "derived: choice letters A, B, C, D"
    assert derive_extractor(["yes", "no"] * 2, (), tuple("ABCD")).text.count("$ A $") == 0


@pytest.mark.parametrize(
    ("text", "in_place", "answer"),
    [
        ("\n\n[[ ## answer ## ]]\n{answer}", "\n\n[[ ## answer ## ]]", "\nTrue"),
        ("\nNext, give only the answer: ", "\nNext, give only the answer:", " True"),
        ("\n  It is $", "\n  It is $", "True$"),
        ("\n\nAnswer:\n{answer}\n\n[[ ## end", "\n\nAnswer:", "\nTrue\n\n[[ ## end"),
        ("  It is $ \n", " It is $", " True $"),
        ("  It is:  ", " It is:", " True"),
        (" It is:  {answer} .", " It is:", " True ."),
    ],
)
def test_line_breaks_around_an_extractor_stay(text: str, in_place: str, answer: str) -> None:
    extractor = make_extractor(text)
    assert extractor.in_place() == in_place
    assert extractor.answer_in_place("True") == answer
    assert extractor.reads_back("True")
    again = make_extractor(extractor.in_config())
    assert (again.in_place(), again.answer_in_place("True")) == (in_place, answer)


def test_an_empty_lead_joins_by_nothing() -> None:
    """A text that may be the very first that the model writes has no space before it."""
    spaced, joined = (Extractor("Answer:", "\n", "\n", "given", lead) for lead in (None, ""))
    assert (spaced.in_place(), joined.in_place()) == (" Answer:", "Answer:")
    assert joined.in_config() == "Answer:\n{answer}\n"
    assert Thought("</think>").closed_before(spaced).in_place() == "\n\nAnswer:"
    assert Thought("</think>").closed_before(joined).in_place() == "Answer:"


def test_options_are_looked_for_in_time_however_many_lines_are_blank() -> None:
    assert option_letters(["Which?" + "\n" * 200_000 + "(A) one\n(B) two"]) == ("A", "B")


@pytest.mark.parametrize(
    "text", ['答案是"', 'It is:"', "It's so: '", 'Say "yes" or "no": "', "It is5$"]
)
def test_a_mark_at_the_end_that_opens(text: str) -> None:
    assert make_extractor(text).closing == text[-1]
