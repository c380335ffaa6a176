"""Rows whose text somebody else has rendered, and the same rows with another prompt."""

from typing import Any

import pytest

from greater_fast.config import Config
from greater_fast.examples.data import Example
from greater_fast.examples.extractor import make_extractor
from greater_fast.examples.layout import Layouts, build_layouts
from tests.cases import examples, layouts_of, tiny_lm, tokenizer_lm
from tests.tiny import EXTRACTOR, PROMPT, tiny_tokenizer

KINDS = pytest.mark.parametrize("kind", ["llama3", "sentencepiece"])
OTHER = "Think about it first, then answer."
START = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"


def in_system_message(example: Example) -> tuple[str, str]:
    """The prompt in the midst of the system message, as DSPy puts it."""
    user = f"<|start_header_id|>user<|end_header_id|>\n\n{example.question}<|eot_id|>"
    reply = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    return f"{START}Your objective is: ", f" Answer True or False.<|eot_id|>{user}{reply}"


def given(around: Any, prompt: str = PROMPT, kind: str = "llama3", **more: Any) -> Layouts:
    lm, data = tokenizer_lm(kind), examples(3)
    extractor = make_extractor(EXTRACTOR)
    return build_layouts(lm, data, prompt, extractor, Config(), around=around, **more)


def test_ids_are_those_of_the_whole_text() -> None:
    layouts = given(in_system_message)
    for number, row in enumerate(layouts.rows):
        before, after = in_system_message(row.example)
        whole = tiny_tokenizer("llama3")(before + PROMPT + after, add_special_tokens=False)
        ids = layouts.context_ids(number, layouts.prompt_ids)
        assert list(ids) == whole.input_ids
        start, stop = layouts.prompt_span(number, layouts.prompt_ids)
        assert layouts.vocabulary.text(ids[start:stop]) == f" {PROMPT}"
    assert layouts.prompt_text(layouts.prompt_ids) == PROMPT
    assert layouts.round_trips([layouts.prompt_ids]) == [True]


@KINDS
def test_a_prompt_behind_a_line_break_has_no_space(kind: str) -> None:
    layouts = given(lambda example: (f"{example.question} Now:\n\n", "\nGo"), kind=kind)
    text = layouts.vocabulary.text(layouts.prompt_ids)
    assert text == PROMPT
    assert layouts.round_trips([layouts.prompt_ids, layouts.prompt_ids[1:]])[0]
    assert layouts.rendered(0, layouts.prompt_ids).endswith(f"\n\n{PROMPT}\nGo")


def test_the_question_in_a_message_is_laid_out_as_by_the_template() -> None:
    def as_template(example: Example) -> tuple[str, str]:
        start = START.replace("system", "user")
        end = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        return f"{start}{example.question} ", end

    own, layouts = layouts_of(tokenizer_lm("llama3"), 3), given(as_template)
    assert [row.head_ids for row in layouts.rows] == [row.head_ids for row in own.rows]
    assert [row.tail_ids for row in layouts.rows] == [row.tail_ids for row in own.rows]
    assert layouts.prompt_ids == own.prompt_ids


def test_a_special_token_that_the_prompt_names_is_text() -> None:
    prompt = "Never write <|eot_id|> before the end."
    layouts = given(in_system_message, prompt)
    (end_id,) = tiny_tokenizer("llama3")("<|eot_id|>", add_special_tokens=False).input_ids
    assert end_id not in layouts.prompt_ids
    assert end_id in layouts.rows[0].tail_ids
    assert layouts.prompt_text(layouts.prompt_ids) == prompt
    assert layouts.round_trips([layouts.prompt_ids]) == [True]


@pytest.mark.parametrize(
    ("around", "message"),
    [
        (lambda example: ("a " if "1:" in example.question else "a", "b"), "a space stands before"),
        (lambda example: ("\ud800 ", "b"), r"text before the prompt of row 0 .* half a character"),
        (lambda example: ("It is a ", "d"), "merges the prompt with the text around it"),
    ],
)
def test_texts_that_no_prompt_stands_in(around: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        given(around, "Count the wor")


@KINDS
@pytest.mark.parametrize("placement", ["after", "before"])
@pytest.mark.parametrize("other", [OTHER, "Name <|eot_id|> and <bos> here."])
def test_another_prompt_is_laid_out_as_if_it_were_the_first(
    kind: str, placement: str, other: str
) -> None:
    lm, settings = tokenizer_lm(kind), {"prompt_placement": placement}
    first, second = layouts_of(lm, 3, **settings), layouts_of(lm, 3, other, **settings)
    found = first.with_prompt(other)
    assert found.prompt_ids == second.prompt_ids
    for own, wanted in zip(found.rows, second.rows, strict=True):
        assert (own.head_ids, own.tail_ids) == (wanted.head_ids, wanted.tail_ids)
        assert own.answer_ids == wanted.answer_ids
    assert found.round_trips([found.prompt_ids]) == [True]
    back = found.with_prompt(PROMPT)
    assert [row.head_ids for row in back.rows] == [row.head_ids for row in first.rows]
    assert back.prompt_ids == first.prompt_ids


def test_another_prompt_is_checked_as_the_first() -> None:
    layouts = layouts_of(tokenizer_lm("llama3"), 3, max_prompt_tokens=40)
    with pytest.raises(ValueError, match=r"has 1 tokens, expected 2 to 40 \(max_prompt_tokens\)"):
        layouts.with_prompt("the")
    with pytest.raises(ValueError, match=r"expected 2 to 40 \(max_prompt_tokens\)"):
        layouts.with_prompt("the house " * 30)
    with pytest.raises(ValueError, match="merges the prompt with the text around it"):
        given(lambda example: ("It is ", "d of it"), "Count the").with_prompt("Count the wor")


def test_another_prompt_has_the_letters_of_its_own_scripts() -> None:
    lm = tiny_lm()
    first = layouts_of(lm, 2)
    assert first.with_prompt("Подумай, пожалуйста.").alphabet != first.alphabet
    strict = layouts_of(lm, 2, allowed="ascii")
    assert strict.with_prompt("Подумай, пожалуйста.").alphabet == strict.alphabet


def test_stop_texts_are_the_layouts() -> None:
    layouts = given(in_system_message, stop_texts=["[[ ##"])
    assert layouts.stop is not None
    assert layouts.stop.texts == ("[[ ##",)
    assert layouts.answer_stop is None
    assert given(in_system_message).stop is None
    layouts = given(in_system_message, answer_stop_texts=["\n"]).with_prompt("Think of it.")
    assert layouts.stop is None
    assert layouts.answer_stop is not None
    assert layouts.answer_stop.texts == ("\n",)


@pytest.mark.parametrize("name", ["stop_texts", "answer_stop_texts"])
@pytest.mark.parametrize("texts", ["\n", "", [""], [None]])
def test_stop_texts_that_are_none_are_refused_by_name(name: str, texts: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: got .+, expected a "):
        given(in_system_message, **{name: texts})
