"""Rows of any script, with texts that name special tokens, and messages that a template drops."""

import datetime
from typing import Any

import pytest

from greater_fast.config import Config
from greater_fast.examples.data import Example
from greater_fast.examples.extractor import make_extractor
from greater_fast.examples.layout import Layouts
from tests.cases import examples, layouts_of, tokenizer, tokenizer_lm
from tests.languages import PROMPTS, language_tokenizer
from tests.tiny import LLAMA3_TEMPLATE, PROMPT, tiny_tokenizer

PLACES = pytest.mark.parametrize("placement", ["after", "before"])
TEMPLATES = pytest.mark.parametrize("template", [True, False], ids=["template", "plain"])
KINDS = pytest.mark.parametrize("kind", ["llama3", "sentencepiece"])


def templated(template: str | None, **settings: Any) -> Layouts:
    found = tiny_tokenizer("llama3")
    found.chat_template = template
    return layouts_of(tokenizer_lm(found), 2, **settings)


@PLACES
@pytest.mark.parametrize(
    ("prompt", "joined"),
    [
        (PROMPTS["chinese"], False),
        (PROMPTS["japanese"], False),
        (PROMPTS["german"], True),
        (PROMPTS["russian"], True),
    ],
)
@pytest.mark.parametrize("question", ["一加一是多少？", "What is 1 + 1?"])
def test_no_space_where_the_prompts_script_has_none(
    placement: str, prompt: str, joined: bool, question: str
) -> None:
    """The prompt's script alone decides: its tokens are the same beside every question."""
    lm = tokenizer_lm(language_tokenizer("llama3", *PROMPTS))
    layouts = layouts_of(lm, [Example(question, "2")], prompt, prompt_placement=placement)
    joint = " " if joined else ""
    text = f"{question}{joint}{prompt}" if placement == "after" else f"{prompt}{joint}{question}"
    assert f"\n\n{text}<|eot_id|>" in layouts.rendered(0, layouts.prompt_ids)
    assert layouts.prompt_text(layouts.prompt_ids) == prompt
    assert layouts.round_trips([layouts.prompt_ids]) == [True]


@PLACES
def test_a_token_that_would_change_the_joint_does_not_survive(placement: str) -> None:
    """A user who pastes the prompt gets the joint of its own script."""
    lm = tokenizer_lm(language_tokenizer("llama3", *PROMPTS))
    prompt = "请 think 再"
    layouts = layouts_of(lm, 2, prompt, prompt_placement=placement)
    ids, new = layouts.prompt_ids, [lm.vocabulary.ids(text) for text in (".", "分析")]
    changed = [(*n, *ids[1:]) if placement == "after" else (*ids[:-1], *n) for n in new]
    assert layouts.round_trips([ids, *changed]) == [True, False, True]


def test_an_extractor_is_joined_as_its_script_joins() -> None:
    chinese = make_extractor("因此，最终答案是")
    assert (chinese.in_place(), chinese.answer_in_place("18")) == ("因此，最终答案是", "18")
    spaced = make_extractor("因此，最终答案是 ")
    assert spaced.answer_in_place("18") == " 18"
    german = make_extractor("Über alles gesehen ist es")
    assert (german.in_place(), german.answer_in_place("18")) == (f" {german.text}", " 18")
    lm = tokenizer_lm(language_tokenizer("llama3", "chinese"))
    layouts = layouts_of(lm, [Example("?", "18")], extractor=chinese.text)
    assert layouts.vocabulary.text(layouts.target_ids(0)) == "因此，最终答案是18"


@KINDS
@TEMPLATES
@PLACES
def test_the_name_of_a_special_token_ends_no_turn(
    kind: str, template: bool, placement: str
) -> None:
    """Neither in a question nor in the prompt or the system message; other rows keep their ids."""
    found = tokenizer(kind, template)
    end, special = found.eos_token, set(found.all_special_ids)
    named = [Example(f"Is {end} a mark? {end}", "True"), *examples(2)]
    settings: dict[str, Any] = {"prompt_placement": placement}
    plain = layouts_of(tokenizer_lm(found), named[1:], **settings)
    layouts = layouts_of(tokenizer_lm(found), named, **settings)
    assert [(r.head_ids, r.tail_ids) for r in layouts.rows[1:]] == [
        (r.head_ids, r.tail_ids) for r in plain.rows
    ]
    if template:
        settings["system_prompt"] = f"Never write {end}."
    with_system = layouts_of(tokenizer_lm(found), named, f"Never write {end} here.", **settings)
    for some in (layouts, with_system):
        assert some.round_trips([some.prompt_ids]) == [True]
        in_row = [i for i in some.context_ids(0, some.prompt_ids) if i in special]
        without = [i for i in plain.context_ids(0, plain.prompt_ids) if i in special]
        turns = 2 if template and some is with_system else 1
        assert in_row.count(found.eos_token_id) == turns * without.count(found.eos_token_id)
        assert f"Is {end} a mark? {end}" in some.rendered(0, some.prompt_ids)
    assert with_system.prompt_text(with_system.prompt_ids) == f"Never write {end} here."


def test_the_name_of_a_special_token_in_extractor_and_answer_is_text() -> None:
    lm = tokenizer_lm("llama3")
    layouts = layouts_of(lm, [Example("Which?", "<|eot_id|>")], extractor="Not <|pad|> but")
    assert layouts.vocabulary.text(layouts.target_ids(0)) == " Not <|pad|> but <|eot_id|>"
    assert not set(layouts.target_ids(0)) & lm.vocabulary.special_ids


@pytest.mark.parametrize("ending", ["", " {{ messages[-1].content | length }}"])
def test_a_system_message_that_the_template_leaves_out(ending: str) -> None:
    """Without a word: a run would be measured without it."""
    deaf = LLAMA3_TEMPLATE.replace("in messages", "in messages if turn.role == 'user'") + ending
    assert templated(deaf)
    with pytest.raises(ValueError, match="leaves out or changes the system message: unset system_"):
        templated(deaf, system_prompt="Be brief.")
    shouting = LLAMA3_TEMPLATE.replace("turn.content | trim", "turn.content | trim | upper")
    with pytest.raises(ValueError, match="changes the user's message"):
        templated(shouting, system_prompt="BE BRIEF.")
    assert templated(LLAMA3_TEMPLATE, system_prompt="  Be brief.\n")


def test_template_arguments_without_a_template_are_refused() -> None:
    with pytest.raises(ValueError, match="no chat template, so chat_template_kwargs has no place"):
        templated(None, chat_template_kwargs={"enable_thinking": False})


def test_a_date_that_the_template_writes_is_that_of_the_settings() -> None:
    dated = "{{ 'Today is ' + strftime_now('%d %b %Y') + '. ' }}" + LLAMA3_TEMPLATE
    layouts = templated(dated, template_date="2024-02-29")
    assert layouts.rendered(0, layouts.prompt_ids).startswith("Today is 29 Feb 2024. ")
    assert layouts.round_trips([layouts.prompt_ids]) == [True]
    before = datetime.date.today()
    today = templated(dated).rendered(0, layouts.prompt_ids)
    days = {f"Today is {day:%d %b %Y}" for day in (before, datetime.date.today())}
    assert today.split(".")[0] in days


@pytest.mark.parametrize(
    ("where", "named"),
    [
        ("question", "the question of row 1 holds half a character"),
        ("answer", r"the answer of row 1 \(.*\) holds half a character"),
        ("prompt", "the prompt holds half"),
        ("extractor", "the extractor holds half"),
        ("system_prompt", "system_prompt holds half"),
        ("chat_template_kwargs", "chat_template_kwargs holds half"),
    ],
)
def test_half_a_character_is_named(where: str, named: str) -> None:
    half = "Is it \ud83d so?"
    rows = [examples(1)[0], Example("Is it?", "True")]
    settings: dict[str, Any] = {}
    prompt = PROMPT
    if where == "question":
        rows[1] = Example(half, "True")
    elif where == "answer":
        rows[1] = Example("Is it?", half)
    elif where == "prompt":
        prompt = half
    else:
        settings[where] = {"date": half} if where == "chat_template_kwargs" else half
    with pytest.raises(ValueError, match=rf"{named}.*'\\ud83d'\) at "):
        layouts_of(tokenizer_lm("llama3"), rows, prompt, **settings)


@pytest.mark.parametrize(
    ("where", "named"),
    [
        ("question", r"row 1 \('Is it zebra\?'\) has the token 'zebra' with id \d+"),
        ("template", r"row 0 \(.*\) has the token 'zebra'"),
        ("answer", "the answer 'zebra' has the token 'zebra'"),
        ("prompt", "the prompt has the token 'zebra'"),
        ("extractor", "the extractor has the token 'zebra'"),
    ],
)
def test_a_token_past_the_embedding_is_named(where: str, named: str) -> None:
    found = tiny_tokenizer("llama3")
    size = len(found)
    found.add_tokens(["zebra"])
    if where == "template":
        found.chat_template = "{{ 'zebra' }}" + LLAMA3_TEMPLATE
    lm = tokenizer_lm(found)
    rows = [examples(1)[0], Example("Is it zebra?" if where == "question" else "Is it?", "True")]
    if where == "answer":
        rows.append(Example("What is it?", "zebra"))
    settings = {"extractor": "The zebra is"} if where == "extractor" else {}
    prompt = "Name the zebra here." if where == "prompt" else PROMPT
    assert layouts_of(lm, rows, prompt, **settings)
    lm.model.get_input_embeddings().weight = lm.model.get_input_embeddings().weight[:size]
    with pytest.raises(ValueError, match=rf"{named}.*embeddings for {size} ids only: take the tok"):
        layouts_of(lm, rows, prompt, **settings)


def test_a_prompt_of_unknown_characters_is_refused() -> None:
    found = tiny_tokenizer("sentencepiece")
    state = found.backend_tokenizer
    state.model.byte_fallback = False
    with pytest.raises(ValueError, match=r"no tokens for some characters of the prompt 'Use 請\.'"):
        layouts_of(tokenizer_lm(found), 2, "Use 請.")


@pytest.mark.parametrize(("allowed", "accented"), [("prompt", True), ("ascii", False)])
def test_letters_of_the_prompts_scripts_or_of_ascii(allowed: str, accented: bool) -> None:
    lm = tokenizer_lm(language_tokenizer("llama3", "german"))
    layouts = layouts_of(lm, 2, PROMPTS["german"], allowed=allowed)
    (token,) = lm.vocabulary.ids(" für")
    assert bool(layouts.candidate_mask[token]) is accented
    assert layouts.candidate_mask[lm.vocabulary.ids(" the")[0]]
    english = layouts_of(lm, 2, PROMPT, allowed=allowed)
    assert not english.candidate_mask[token]


@pytest.mark.parametrize("more", [-3, 0, 40])
def test_masks_have_the_embeddings_size(more: int) -> None:
    lm = tokenizer_lm(tokenizer("llama3"))
    size = len(lm.tokenizer) + more
    lm.model.get_input_embeddings().weight = lm.model.get_input_embeddings().weight.new_empty(size)
    layouts = layouts_of(lm, 2, allowed="ascii")
    mask = layouts.candidate_mask
    assert mask.shape == layouts.words.shape == (size,)
    known = len(lm.tokenizer)
    alone = lm.vocabulary.candidate_mask(layouts.alphabet)
    assert mask[:known].tolist() == alone[:size].tolist()
    assert not mask[known:].any()


def test_parts_of_a_character_are_told() -> None:
    lm = tokenizer_lm("llama3")
    layouts = layouts_of(lm, 2, "Think 😀 of é.")
    parts = [layouts.cuts_a_character(i) for i in layouts.prompt_ids]
    texts = [lm.vocabulary.text([i]) for i in layouts.prompt_ids]
    assert parts == ["\ufffd" in text for text in texts]
    assert 2 <= sum(parts) < len(parts)


def test_the_day_of_the_settings() -> None:
    assert Config(template_date="2026-11-26").template_date == "2026-11-26"
    for wrong in ("26.11.2026", "", "2026-02-30", 5):
        with pytest.raises(ValueError, match=r"template_date: got .* expected a day such as 2026-"):
            Config.from_mapping({"template_date": wrong})
