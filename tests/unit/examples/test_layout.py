import functools
import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greater_fast.config import Config
from greater_fast.examples.data import Example
from greater_fast.examples.extractor import Extractor, make_extractor
from greater_fast.examples.layout import Layouts, build_layouts
from tests.cases import TOKENIZERS, examples, layouts_of, tokenizer, tokenizer_lm
from tests.tiny import PROMPT, tiny_tokenizer

AWKWARD = [
    "What follows?   ",
    "Line one\nline two\n\nline four\t.\n",
    "Naïve café — 数学 😀?",
    "Marks: \ue000 and prompt and \ue000prompt.",
    "Is {{ x }} or {% if %} <|im_end|\u200b> code?",
]
PLACES = pytest.mark.parametrize("placement", ["after", "before"])
TEMPLATES = pytest.mark.parametrize("template", [True, False], ids=["template", "plain"])
KINDS = pytest.mark.parametrize("kind", TOKENIZERS)


def lay_out(kind: str, template: bool, placement: str, **settings: Any) -> Layouts:
    if kind == "smollm2" and not template and placement == "before":
        pytest.skip("no BOS: nothing stands before the prompt")
    data = [*examples(2), *(Example(q, "True") for q in AWKWARD)]
    lm = tokenizer_lm(tokenizer(kind, template))
    return layouts_of(lm, data, prompt_placement=placement, **settings)


def rendered(tokenizer: Any, question: str, prompt: str, placement: str) -> str:
    """The text that a user of the tokenizer would make."""
    first, second = (question, prompt) if placement == "after" else (prompt, question)
    message = f"{first.strip()} {second.strip()}"
    if not tokenizer.chat_template:
        return message
    turns = [{"role": "user", "content": message}]
    text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return text


def rendered_ids(tokenizer: Any, question: str, prompt: str, placement: str) -> list[int]:
    """Ids of that text."""
    text = rendered(tokenizer, question, prompt, placement)
    return list(tokenizer(text, add_special_tokens=not tokenizer.chat_template).input_ids)


@KINDS
@TEMPLATES
@PLACES
def test_ids_are_those_of_the_whole_text(kind: str, template: bool, placement: str) -> None:
    layouts = lay_out(kind, template, placement)
    found = tokenizer(kind, template)
    assert len(layouts) == len(AWKWARD) + 2
    for number, row in enumerate(layouts.rows):
        ids = layouts.context_ids(number, layouts.prompt_ids)
        assert list(ids) == rendered_ids(found, row.example.question, PROMPT, placement)
        assert ids == (*row.head_ids, *layouts.prompt_ids, *row.tail_ids)
        start, stop = layouts.prompt_span(number, layouts.prompt_ids)
        assert ids[start:stop] == layouts.prompt_ids
        question = row.example.question.strip()
        side = row.head_ids if placement == "after" else row.tail_ids
        assert question in found.decode(side, clean_up_tokenization_spaces=False)
        assert bool(row.tail_ids) == (template or placement == "before")
    assert layouts.prompt_text(layouts.prompt_ids) == PROMPT
    if placement == "after":
        assert layouts.vocabulary.text(layouts.prompt_ids) == f" {PROMPT}"


@KINDS
@TEMPLATES
def test_no_second_bos(kind: str, template: bool) -> None:
    found = tokenizer(kind, template)
    for number in range(len(layouts := lay_out(kind, template, "after"))):
        ids = layouts.context_ids(number, layouts.prompt_ids)
        if kind != "smollm2":  # there, BOS begins each turn
            assert ids.count(found.bos_token_id) == 1
            assert ids[0] == found.bos_token_id
        assert not set(layouts.target_ids(number)) & set(found.all_special_ids)


@KINDS
@pytest.mark.parametrize(
    ("extractor", "text", "answer"),
    [
        ("The answer is $", " The answer is $", "{}$"),
        ("The answer is $ ", " The answer is $", " {} $"),
        ("  The answer (", " The answer (", "{})"),
        ('It says "', ' It says "', '{}"'),
        ("The answer is:\n", " The answer is:", " {}"),
        ("So", " So", " {}"),
    ],
)
def test_targets_are_extractor_answer_and_closing_mark(
    kind: str, extractor: str, text: str, answer: str
) -> None:
    lm = tokenizer_lm(kind)
    gold = ["True", "False", "a red box", "18", "E", "x"]
    layouts = layouts_of(lm, [Example("What?", g) for g in gold], extractor=extractor)
    assert layouts.vocabulary.text(layouts.extractor_ids) == text
    ids = layouts.extractor_ids
    for number, (row, value) in enumerate(zip(layouts.rows, gold, strict=True)):
        assert row.answer_ids
        assert layouts.vocabulary.text(row.answer_ids) == answer.format(value)
        assert layouts.target_ids(number) == (*ids, *row.answer_ids)
        behind = lm.tokenizer("x", add_special_tokens=False).input_ids
        whole = lm.tokenizer("x" + text + answer.format(value), add_special_tokens=False).input_ids
        assert whole == [*behind, *ids, *row.answer_ids]


def test_a_line_break_that_is_one_token_with_the_mark_before_it_is_the_extractors() -> None:
    """As ":\\n" and "]]\\n" of Llama 3 and Qwen."""
    lm = tokenizer_lm(tiny_tokenizer("llama3", more=["so]]\n18"] * 99))
    gold = ["18", "True", "(E)"]
    layouts = layouts_of(lm, [Example("What?", g) for g in gold], extractor="[[it]]\n{answer}\n")
    text = layouts.vocabulary.text
    assert text(layouts.extractor_ids) == " [[it]]\n"
    assert text(layouts.extractor_ids[-1:]) == "]]\n"
    assert [text(row.answer_ids) for row in layouts.rows] == gold
    other = layouts_of(tokenizer_lm("llama3"), [Example("What?", "18")], extractor="So:\n{answer}")
    text = other.vocabulary.text
    assert text(other.extractor_ids) == " So:"  # where it is none
    assert text(other.rows[0].answer_ids) == "\n18"


def test_what_stands_behind_an_answer_is_not_scored() -> None:
    lm = tokenizer_lm("llama3")
    extractor = Extractor("It is", "\n", "\n\n", "given", behind="[[ so ]]")
    config = Config()
    alone, beside = (
        build_layouts(lm, [Example("What?", "18")], PROMPT, each, config)
        for each in (replace(extractor, behind=""), extractor)
    )
    assert beside.vocabulary.text(beside.rows[0].answer_ids) == "\n18\n\n"
    assert beside.predicted(beside.rows[0].answer_ids) == "18"
    assert alone.extractor_ids == beside.extractor_ids


def test_an_answer_that_merges_with_the_extractor_is_named() -> None:
    with pytest.raises(ValueError, match=r"'It costs \(' with the answer '\$5'"):
        layouts_of(tokenizer_lm("llama3"), [Example("Cost?", "$5")], extractor="It costs (")


def test_the_longest_sequence_has_room_for_longer_answers_elsewhere() -> None:
    """Development rows are answered with as many tokens as the training rows' answers may take."""
    lm, config = tokenizer_lm(tokenizer("llama3", True)), Config()
    extractor = make_extractor("The answer is")
    alone, beside, shorter = (
        build_layouts(lm, examples(2), PROMPT, extractor, config, room) for room in (0, 40, 1)
    )
    more = 40 - alone.longest_answer
    assert beside.longest_sequence(config) == alone.longest_sequence(config) + more
    assert shorter.longest_sequence(config) == alone.longest_sequence(config)


def test_an_answer_without_tokens_is_named() -> None:
    with pytest.raises(ValueError, match="no token for the answer ''"):
        layouts_of(tokenizer_lm("llama3"), [Example("Cost?", "")], extractor="It costs")


@KINDS
@TEMPLATES
@PLACES
def test_the_initial_prompt_survives_text_and_back(
    kind: str, template: bool, placement: str
) -> None:
    layouts = lay_out(kind, template, placement)
    assert layouts.round_trips([layouts.prompt_ids]) == [True]
    assert layouts.round_trips([]) == []


@KINDS
def test_ids_whose_texts_join_do_not_survive(kind: str) -> None:
    layouts = layouts_of(tokenizer_lm(kind), 2)
    vocabulary, ids = layouts.vocabulary, layouts.prompt_ids
    whole = vocabulary.ids(" proper")
    letters = tokenizer(kind).convert_tokens_to_ids(list("roper"))
    parts = (*vocabulary.ids(" p"), *letters)
    assert whole == ids[1:2]
    assert vocabulary.text(parts) == " proper"
    joined = (*ids[:1], *parts, *ids[2:])
    assert layouts.prompt_text(joined) == PROMPT
    assert layouts.round_trips([joined, ids]) == [False, True]


def test_one_row_that_refuses_a_prompt_is_enough() -> None:
    """The template writes "ly" right behind the second row's prompt, and some words take it."""
    changed = tiny_tokenizer("llama3")
    changed.chat_template = (
        "{{ '<|begin_of_text|>' + messages[0].content }}"
        "{{ 'ly' if 'second' in messages[0].content else '|' }}{{ '<|eot_id|>' }}"
    )
    lm, prompt = tokenizer_lm(changed), "Use proper reasoning."
    rows = [Example("The first?", "True"), Example("The second?", "True")]
    alone, both = (layouts_of(lm, data, prompt) for data in (rows[:1], rows))
    allowed = both.candidate_mask.nonzero().flatten().tolist()
    prompts = [(*both.prompt_ids[:-1], i) for i in allowed]
    one, two = alone.round_trips(prompts), both.round_trips(prompts)
    assert all(first or not second for first, second in zip(one, two, strict=True))
    assert 20 < sum(two) < sum(one)
    assert two == pasted_round_trips(both, prompts, "after")


def pasted_round_trips(layouts: Layouts, prompts: list[Any], placement: str) -> list[bool]:
    """Whether the text of each prompt, pasted by a user, has the same ids on every row."""
    found = layouts.vocabulary.tokenizer
    behind = found("x", add_special_tokens=False).input_ids
    same = []
    for prompt in prompts:
        pasted = found.decode([*behind, *prompt], clean_up_tokenization_spaces=False)[1:]
        ids = [rendered_ids(found, r.example.question, pasted, placement) for r in layouts.rows]
        same.append(ids == [[*r.head_ids, *prompt, *r.tail_ids] for r in layouts.rows])
    return same


@functools.cache
def three_rows(kind: str, template: bool, placement: str) -> Layouts:
    return layouts_of(tokenizer_lm(tokenizer(kind, template)), 3, prompt_placement=placement)


@pytest.mark.parametrize("kind", ["llama3", "sentencepiece"])
@TEMPLATES
@PLACES
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_round_trips_are_exactly_those_of_pasted_text(
    kind: str, template: bool, placement: str, data: st.DataObject
) -> None:
    """Between one and three tokens replaced by any that are allowed, at any place or behind it."""
    layouts = three_rows(kind, template, placement)
    mask = layouts.candidate_mask
    tokens = st.sampled_from(mask.nonzero().flatten().tolist())
    prompts = [list(layouts.prompt_ids)]
    for _ in range(6):
        prompt = list(layouts.prompt_ids)
        index = data.draw(st.integers(0, len(prompt)))
        prompt[index : index + 1] = data.draw(st.lists(tokens, min_size=1, max_size=3))
        prompts.append(prompt)
    found = layouts.round_trips(prompts)
    assert found == pasted_round_trips(layouts, prompts, placement)
    assert found[0]


@PLACES
@KINDS
@pytest.mark.parametrize("index", [0, 4, 15])
def test_some_replacements_survive_and_others_do_not(kind: str, placement: str, index: int) -> None:
    """One or two tokens in the place of one."""
    layouts = three_rows(kind, True, placement)
    mask, ids = layouts.candidate_mask, layouts.prompt_ids
    tokens = mask.nonzero().flatten().tolist()[:: len(mask) // 200]
    new = [(i,) for i in tokens] + list(itertools.pairwise(tokens))
    prompts = [[*ids[:index], *n, *ids[index + 1 :]] for n in new]
    found = layouts.round_trips(prompts)
    assert found == pasted_round_trips(layouts, prompts, placement)
    assert set(found) == {True, False}


def test_a_long_prompt_is_repeated_in_short() -> None:
    with pytest.raises(ValueError, match=r"^the prompt 'word word .*…' has \d+ tokens") as error:
        layouts_of(tokenizer_lm("llama3"), examples(2), prompt="word " * 5000)
    assert len(str(error.value)) < 200
