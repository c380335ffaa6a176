import datetime
import re

import pytest

from greater_fast.config import Config
from greater_fast.model.lm import load_lm
from greater_fast.model.text.chat_template import has_template, render, render_as
from tests.cases import tokenizer
from tests.tiny import LLAMA3_TEMPLATE, tiny_model, tiny_tokenizer

DAY = datetime.date(2026, 3, 5)
MESSAGES = [{"role": "user", "content": "Is it?"}]
# As in published templates: a variable of the caller's, else the clock, else a constant.
DATED = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}"
    "{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}"
    "{{- 'Today Date: ' + date_string + '\n' }}"
)


def rendered(template: str, day: datetime.date = DAY, **arguments: object) -> str:
    found = tiny_tokenizer("llama3")
    found.chat_template = template
    return render(found, MESSAGES, arguments, day)


def test_a_template_without_more_is_transformers_own() -> None:
    found = tokenizer("llama3")
    expected = found.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert render(found, MESSAGES, {}, DAY) == expected
    assert has_template(found)
    assert not has_template(tokenizer("llama3", False))


def test_the_date_is_the_one_that_is_given() -> None:
    assert rendered(DATED + LLAMA3_TEMPLATE).startswith("Today Date: 05 Mar 2026\n<|begin")
    assert rendered(DATED, datetime.date(2030, 12, 31)) == "Today Date: 31 Dec 2030\n"
    assert rendered(DATED, date_string="today") == "Today Date: today\n"


def test_every_way_to_write_a_date() -> None:
    formats = ["%Y-%m-%d", "%A, %-d %B %y", "%a %b %j %H:%M:%S %p", "day %d of %m", "%x"]
    asked = "|".join(f"{{{{ strftime_now('{f}') }}}}" for f in formats)
    midnight = datetime.datetime.combine(DAY, datetime.time())
    assert rendered(asked) == "|".join(midnight.strftime(f) for f in formats)


def test_the_date_reaches_macros_and_loops() -> None:
    template = (
        "{% macro today() %}{{ strftime_now('%Y') }}{% endmacro %}"
        "{% for turn in messages %}{{ today() }} {{ strftime_now('%d') }}{% endfor %}"
    )
    assert rendered(template) == "2026 05"


def test_an_argument_that_the_template_does_not_know() -> None:
    template = (
        LLAMA3_TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}!{% endif %}"
    )
    assert rendered(template, enable_thinking=False).endswith("!")
    assert not rendered(template, enable_thinking=True).endswith("!")
    with pytest.raises(ValueError, match="no argument 'enable_thinkin': did you mean enable_think"):
        rendered(template, enable_thinkin=False)
    with pytest.raises(ValueError, match="no argument 'x': it has enable_thinking"):
        rendered(template, x=1)
    with pytest.raises(ValueError, match="no argument 'x': it has none"):
        rendered(LLAMA3_TEMPLATE, x=1)
    for ours in ("messages", "add_generation_prompt", "tokenize", "chat_template"):
        with pytest.raises(ValueError, match=f"no argument '{ours}'"):
            rendered(template, **{ours: True})
    assert rendered(DATED, date_string="d") == "Today Date: d\n"  # set by the template, read before


def test_tags_of_transformers_own() -> None:
    template = (
        "{% for turn in messages %}{% generation %}{{ turn.content }}{% endgeneration %}"
        "{% if loop.index > 3 %}{% break %}{% endif %}{% endfor %}{{ a | tojson }}"
    )
    assert rendered(template, a=[1]) == "Is it?[1]"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('No\n  system role') }}", "^No system role$"),
        ("{% if %}", "^Expected an expression"),
        ("{{ messages[3].content }}", "has no element 3"),
        ("{{ 1 / 0 }}", "^division by zero$"),
        ("{{ none.items() }}", "has no attribute 'items'"),
    ],
)
def test_what_a_template_raises_is_one_sentence(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        rendered(template)
    assert "\n" not in str(caught.value)


def test_one_of_several_templates() -> None:
    found = tiny_tokenizer("llama3")
    found.chat_template = {
        "default": "{{ messages[0].content }}",
        "tool_use": "{{ tools | length }}",
    }
    assert render(found, MESSAGES, {}, DAY) == "Is it?"
    assert render(found, MESSAGES, {"tools": [{}]}, DAY) == "1"


def test_a_conversation_by_the_settings() -> None:
    found = tiny_tokenizer("llama3")
    lm = load_lm((tiny_model("llama", len(found)), found))
    found.chat_template = DATED + LLAMA3_TEMPLATE + "{{ more }}"
    config = Config(template_date="2026-03-05", chat_template_kwargs={"more": "!"})
    text = render_as(lm, config, MESSAGES)
    assert text.startswith("Today Date: 05 Mar 2026\n<|begin_of_text|>")
    assert text.endswith("Is it?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n!")
    turns = [{"role": "system", "content": " Be brief. "}, *MESSAGES]
    assert "\n\nBe brief.<|eot_id|>" in render_as(lm, config, turns)
    for template, said in {
        "{{ raise_exception('no system') }}": "refused the messages: no system",
        "{{ messages[1].content }}": "leaves out or changes the system message ' Be brief. '",
        "{{ messages[0].content + messages[1].content | upper }}": "the user message 'Is it?'",
    }.items():
        found.chat_template = template + "{{ more }}"
        with pytest.raises(ValueError, match=re.escape(said)):
            render_as(lm, config, turns)


def test_a_template_may_take_the_thinking_of_earlier_turns_out() -> None:
    found = tiny_tokenizer("llama3")
    lm = load_lm((tiny_model("llama", len(found)), found))
    said = {"role": "assistant", "content": "<think>Hm.</think> Yes."}
    turns = [*MESSAGES, said, {"role": "user", "content": "Sure?"}]
    config = Config(template_date="2026-03-05")
    found.chat_template = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}"
    assert render_as(lm, config, turns) == "Is it? Yes.Sure?"
    found.chat_template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match="leaves out or changes the assistant message"):
        render_as(lm, config, turns)
