"""What a chat template may ask for, and what it may not do; what does not fit."""

from typing import Any

import pytest

from greater_fast.config import Config
from greater_fast.examples.data import Example
from greater_fast.examples.layout import Layouts
from tests.cases import examples, layouts_of, tokenizer, tokenizer_lm
from tests.tiny import LLAMA3_TEMPLATE, PROMPT, tiny_tokenizer

PLACES = pytest.mark.parametrize("placement", ["after", "before"])
KINDS = pytest.mark.parametrize("kind", ["llama3", "sentencepiece"])


def templated(template: str | None, **settings: Any) -> Layouts:
    found = tiny_tokenizer("llama3")
    found.chat_template = template
    return layouts_of(tokenizer_lm(found), 2, **settings)


def texts(layouts: Layouts) -> list[str]:
    found = layouts.vocabulary.tokenizer
    ids = [layouts.context_ids(row, layouts.prompt_ids) for row in range(len(layouts))]
    return [found.decode(i, clean_up_tokenization_spaces=False) for i in ids]


@KINDS
def test_the_system_prompt_stands_first(kind: str) -> None:
    layouts = layouts_of(tokenizer_lm(kind), 1, system_prompt="Be brief with care.")
    (text,) = texts(layouts)
    turns = [
        {"role": "system", "content": "Be brief with care."},
        {"role": "user", "content": f"{examples(1)[0].question} {PROMPT}"},
    ]
    assert text == tokenizer(kind).apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True
    )
    assert layouts.prompt_ids == layouts_of(tokenizer_lm(kind), 1).prompt_ids


def test_a_system_prompt_without_a_template_is_refused() -> None:
    with pytest.raises(ValueError, match="no chat template, so system_prompt has no place"):
        templated(None, system_prompt="Be brief.")


def test_template_arguments_reach_the_template() -> None:
    template = (
        "{% if date is not defined %}{{ raise_exception('no date') }}{% endif %}"
        "{{ 'Today: ' + date + '. ' }}"
        + LLAMA3_TEMPLATE
        + "{% if not enable_thinking | default(true) %}{{ 'no thoughts' }}{% endif %}"
    )
    for thinking, end in (
        (True, "<|end_header_id|>\n\n"),
        (False, "<|end_header_id|>\n\nno thoughts"),
    ):
        given = {"date": "1 May 2024", "enable_thinking": thinking}
        layouts = templated(template, chat_template_kwargs=given)
        for text in texts(layouts):
            assert text.startswith("Today: 1 May 2024. ")
            assert text.endswith(end)
        assert layouts.round_trips([layouts.prompt_ids]) == [True]
    with pytest.raises(ValueError, match=r"refused the message: no date; .*chat_template_kwargs"):
        templated(template)


def test_template_arguments_cannot_replace_ours() -> None:
    with pytest.raises(ValueError, match="chat_template_kwargs"):
        templated(LLAMA3_TEMPLATE, chat_template_kwargs={"tokenize": True})


def test_a_template_that_refuses_a_system_role() -> None:
    refusing = (
        "{% if messages[0].role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}" + LLAMA3_TEMPLATE
    )
    assert texts(templated(refusing)) == texts(templated(LLAMA3_TEMPLATE))
    with pytest.raises(ValueError, match=r"System role not supported; see system_prompt"):
        templated(refusing, system_prompt="Be brief.")


@PLACES
@pytest.mark.parametrize(
    "content",
    [
        "''",
        "messages[0].content | upper",
        "messages[0].content | lower",
        "messages[0].content | replace(' ', '  ')",
        "messages[0].content[:9]",
        "messages[0].content[9:]",
        "messages[0].content + messages[0].content",
    ],
)
def test_a_template_that_changes_the_user_message(content: str, placement: str) -> None:
    template = f"{{{{ '<|begin_of_text|>' }}}}{{{{ {content} }}}}{{{{ '<|eot_id|>' }}}}"
    with pytest.raises(ValueError, match="the chat template of the test model changes the user's"):
        templated(template, prompt_placement=placement)


def test_a_prompt_that_merges_with_the_template_is_refused() -> None:
    template = "{{ '<|begin_of_text|>' + messages[0].content + 'ly<|eot_id|>' }}"
    assert templated(template, prompt="Use reasoning.")
    with pytest.raises(
        ValueError, match=r"on row 0 \(.*\) the tokenizer merges the prompt .* last word"
    ):
        templated(template, prompt="Reason slow")


def test_without_a_bos_nothing_stands_before_a_prompt_that_comes_first() -> None:
    template = "{{ messages[0].content + '<|eot_id|>' }}"
    assert templated(template)
    with pytest.raises(ValueError, match="use prompt_placement='after'"):
        templated(template, prompt_placement="before")


@pytest.mark.parametrize(("prompt", "count"), [("Use", 1), ("Use the red book", 4)])
def test_a_prompt_of_too_few_or_too_many_tokens(prompt: str, count: int) -> None:
    with pytest.raises(ValueError, match=rf"has {count} tokens, expected 2 to 3 \(max_prompt_"):
        templated(LLAMA3_TEMPLATE, prompt=prompt, max_prompt_tokens=3)
    for good in ("Use the", "Use the book"):
        assert len(templated(LLAMA3_TEMPLATE, prompt=good, max_prompt_tokens=3).prompt_ids) < 4


def test_white_space_around_prompt_and_question_is_no_part_of_them() -> None:
    lm = tokenizer_lm("llama3")
    bare = layouts_of(lm, [Example("Is it?", "True")])
    spaced = layouts_of(lm, [Example(" \n Is it?\t ", "True")], f"  {PROMPT}\n")
    assert spaced.context_ids(0, spaced.prompt_ids) == bare.context_ids(0, bare.prompt_ids)


def need(layouts: Layouts, row: int, config: Config) -> int:
    """Tokens of a row at its longest."""
    ids = layouts.rows[row]
    around = len(ids.head_ids) + len(ids.tail_ids) + len(layouts.extractor_ids)
    around += layouts.longest_answer + 8
    return around + config.max_prompt_tokens + config.max_new_tokens


def test_rows_that_do_not_fit_the_context() -> None:
    rows = [*examples(2), Example("very " * 60 + "long?", "True"), Example("a " * 90, "True")]
    config = Config(max_new_tokens=10, num_proposal_examples=2, num_draws=2)
    whole = layouts_of(tokenizer_lm("llama3"), rows)
    needs = [need(whole, row, config) for row in range(4)]
    longest = max(needs)
    assert len(layouts_of(tokenizer_lm("llama3", longest), rows)) == 4

    named = r"row 3 \('a a .*…'\)"
    expected = (
        rf"1 of 4 rows do not fit .*: {named}; the longest needs 1 tokens more; lower max_new"
    )
    assert needs[3] == longest > needs[2]
    with pytest.raises(ValueError, match=expected):
        layouts_of(tokenizer_lm("llama3", longest - 1), rows)

    tight = tokenizer_lm("llama3", max(needs[:2]))
    with pytest.raises(ValueError, match=r"2 of 4 rows do not fit .* row 2 \(.*\), row 3 \(.*\); "):
        layouts_of(tight, rows)
    kept = layouts_of(tight, rows, on_long="drop")
    assert [row.example for row in kept.rows] == rows[:2]
    (note,) = kept.notes
    assert note.startswith("dropped: 2 of 4 rows")
    assert not whole.notes

    with pytest.raises(ValueError, match=r"4 of 4 rows .*dropping them leaves none"):
        layouts_of(tokenizer_lm("llama3", 20), rows, on_long="drop")


def test_five_long_rows_are_named_at_most() -> None:
    rows = [Example("very " * 60 + "long?", "True")] * 12
    with pytest.raises(ValueError, match=r": row 0 \(.* row 4 \('very very .*…'\), \.\.\.; "):
        layouts_of(tokenizer_lm("llama3", 200), rows)
