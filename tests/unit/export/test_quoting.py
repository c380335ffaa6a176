"""A text is the same text to YAML and to Jinja, whatever it holds."""

from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from jinja2 import Environment, StrictUndefined

from greater_fast.export.quoting import as_jinja, as_yaml

# As the harness has them: its loader of YAML is built on one of these, its Jinja is this.
LOADERS = (yaml.FullLoader, yaml.CSafeLoader)
JINJA = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
WHOLE_CHARACTERS = st.text(st.characters(exclude_categories=["Cs"]))


def rendered(text: str) -> str:
    """What the harness makes of a text that stands in a task's template."""
    (read,) = {yaml.load(as_yaml({"text": as_jinja(text)}), loader)["text"] for loader in LOADERS}
    return JINJA.from_string(read).render()


@given(WHOLE_CHARACTERS)
@example('{{ 7 * 7 }}{% endraw %}{# }} "\\" \\N{DASH} \\x41')
@example("- a: &b !!python/object\n# \r\n\x85\u2028\x00\ufeff'\U0001f600")
def test_a_text_is_read_as_it_is(text: str) -> None:
    assert rendered(text) == text


def test_every_character_is_read_as_it_is() -> None:
    text = "".join(chr(n) for n in range(0x110000) if not 0xD800 <= n < 0xE000)
    assert rendered(text) == text


@pytest.mark.parametrize("loader", LOADERS)
def test_values_are_read_as_they_are(loader: Any) -> None:
    values = {
        "word": "yes",
        "list": ["1", 1, 0.5, True, False, None, []],
        "nested": {"a": [{"b": "c: d"}, {}], "e": "~"},
    }
    written = as_yaml(values)
    assert yaml.load(written, loader) == values
    assert len(written.splitlines()) == 3
