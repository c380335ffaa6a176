import pytest

from greater_fast.examples.extractor import given_extractor
from greater_fast.examples.placeholders import (
    check_no_placeholder,
    empty_place_notes,
    has_placeholder,
    with_answer_place,
)


@pytest.mark.parametrize(
    "text",
    [
        "{question} Think.",
        "Solve {input}.",
        "{{question}}\nThink.",
        "{{ question }} Think.",
        "{{ row.question | trim }} Think.",
        "{% for q in questions %}Think.{% endfor %}",
        "$question Think.",
        "${question} Think.",
        "Answer <question>.",
        "<INPUT> Think.",
        "[QUESTION] Think.",
        "%(question)s Think.",
        "Think about {0}.",
        "{Problem}: think.",
        "{user_input!r}",
        "{问题}",
        "{вопрос} Думай.",
    ],
)
def test_a_placeholder_in_a_prompt_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"prompt: got the placeholder .*; leave it out"):
        check_no_placeholder("prompt", text, "leave it out")


@pytest.mark.parametrize(
    "text",
    [
        'Answer with JSON such as {"a": 1} or {"answer": "x"}.',
        "Answer with {} if nothing fits.",
        "Put the final answer in \\boxed{answer}.",
        "Write \\frac{num}{den}, x_{max} or 10^{exponent}.",
        "Choose from {yes, no}.",
        "End with: The answer is {answer}.",
        "Think inside <think></think>, answer inside <answer></answer>.",
        "Read what is in <question> </question> tags.",
        "It costs $5, or $ 5; $x$ is unknown.",
        "body {color: red}",
        "Use 100% of the input.",
        "Match [a-z]{2,3} and \\d{2}.",
        "{1, 2}",
    ],
)
def test_other_braces_and_marks_are_plain_text(text: str) -> None:
    check_no_placeholder("prompt", text, "leave it out")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Q: {}\nThink.", "{}"),
        ("Q: { } Think.", "{}"),
        ("Question: %s", "%s"),
        ("%s and %d, {} and {}", "%s and %d and {}"),
        ("Answer with {} if nothing fits.", "{}"),
        ("Put it in \\boxed{}.", ""),
        ("x^{} and {{}}", ""),
        ("100%s, 5%discount, %%s", ""),
        ("{question}", ""),
    ],
)
def test_places_without_a_name_are_told(text: str, named: str) -> None:
    notes = empty_place_notes("prompt", text, "leave it out")
    assert len(notes) == bool(named)
    assert all(note.startswith(f"prompt: {named} stays in it as it is written") for note in notes)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("It is {answer}.", "It is {answer}."),
        ("It is {final_answer}.", "It is {answer}."),
        ("It is {Final Answer}.", "It is {answer}."),
        ("It is {{answer}}.", "It is {answer}."),
        ("It is {{ answer }}.", "It is {answer}."),
        ("It is ${answer}.", "It is {answer}."),
        ("It is $answer.", "It is {answer}."),
        ("It is {}.", "It is {answer}."),
        ("It is {label}", "It is {answer}"),
        ("It is <answer>{answer}</answer>", "It is <answer>{answer}</answer>"),
        ("It is \\boxed{answer}", "It is \\boxed{{answer}}"),
        ("It is \\boxed{{answer}}.", "It is \\boxed{{answer}}."),
        ("It is \\boxed{}", "It is \\boxed{{answer}}"),
        ('{"answer": "{answer}"}', '{"answer": "{answer}"}'),
        ("It is $ ", "It is $ "),
        ("The answer is", "The answer is"),
    ],
)
def test_the_answers_place_is_understood(text: str, filled: str) -> None:
    assert with_answer_place(text) == filled
    extractor = given_extractor(text)
    again = given_extractor(extractor.in_config())
    assert again == extractor
    assert again.reads_back("42")


@pytest.mark.parametrize(
    ("mark", "closing"), [("{", "}"), ("{ ", "}"), ("\\boxed{", "}"), ("$", "$"), ("$ ", "$")]
)
def test_an_opening_mark_survives_a_config(mark: str, closing: str) -> None:
    extractor = given_extractor(f"It is {mark}")
    assert extractor.closing.strip() == closing
    assert given_extractor(extractor.in_config()) == extractor


def test_a_second_place_for_the_answer_is_refused() -> None:
    for text in ("It is {answer}. So {answer}.", "It is {answer}, {final_answer}"):
        with pytest.raises(ValueError, match="more than one place for the answer"):
            given_extractor(text)


@pytest.mark.parametrize("text", ["To {question}: {answer}", "It is {answer}. {{ question }}"])
def test_other_placeholders_in_an_extractor_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="extractor: got the placeholder"):
        given_extractor(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{  }", "{answer}"),
        ("{ answer }", "{answer}"),
        ("{ final_answer}", "{answer}"),
        (r"\boxed{answer}", r"\boxed{{answer}}"),
        (r"\a is {answer}", r"\a is {answer}"),
        (r"\a\boxed{}", r"\a\boxed{{answer}}"),
    ],
)
def test_the_place_of_an_answer(text: str, expected: str) -> None:
    assert with_answer_place(text) == expected


@pytest.mark.parametrize("text", ["{{a b|c}}", "{% if x %}", "{% {% x %}", "{{ question.text }}"])
def test_a_templates_language(text: str) -> None:
    assert has_placeholder(text)


def test_dollar_signs_around_the_answers_place_are_marks() -> None:
    assert with_answer_place("It is ${answer}$.") == "It is ${answer}$."
    assert with_answer_place("It is $${answer}$$.") == "It is $${answer}$$."
    assert with_answer_place("It is ${answer}.") == "It is {answer}."
