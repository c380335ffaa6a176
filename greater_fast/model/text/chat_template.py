"""A tokenizer's chat template: rendered on a day that is given, its arguments known by name."""

from __future__ import annotations

import datetime
import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from greater_fast.config import Config
from greater_fast.model.lm import LM
from greater_fast.wording import in_one_line, listed, quoted

_DIRECTIVES = "aAbBcdfGHIjmMpSuUVwWxXyYzZ"
_OURS = {"messages", "add_generation_prompt"}


def has_template(tokenizer: Any) -> bool:
    """Whether the tokenizer knows how a conversation is written."""
    return bool(getattr(tokenizer, "chat_template", None))


def render(
    tokenizer: Any,
    messages: Sequence[Mapping[str, str]],
    arguments: Mapping[str, Any],
    day: datetime.date,
) -> str:
    """A conversation as the model reads it, up to the start of the assistant's turn.

    A template that writes the date writes `day`.

    Raises:
        ValueError: the template has no such argument, or refuses the conversation.
    """
    try:
        template: str = tokenizer.get_chat_template(tools=arguments.get("tools"))
        _check_arguments(template, arguments)
        text: str = tokenizer.apply_chat_template(
            list(messages),
            chat_template=_dated(template, day),
            tokenize=False,
            add_generation_prompt=True,
            **arguments,
        )
    except Exception as error:  # a template is a program of somebody else's
        raise ValueError(in_one_line(error) or type(error).__name__) from error
    return text


def render_as(lm: LM, config: Config, messages: Sequence[Mapping[str, str]]) -> str:
    """A conversation as a model reads it by the settings: on their day, with their arguments.

    Raises:
        ValueError: the model's template refuses it, or leaves out or changes a message.
    """
    assert config.template_date is not None  # `as_config` has settled it
    day = datetime.date.fromisoformat(config.template_date)
    try:
        text = render(lm.tokenizer, messages, config.chat_template_kwargs, day)
    except ValueError as error:
        raise ValueError(
            f"the chat template of {lm.name} refused the messages: {error}; send others, see "
            "chat_template_kwargs, or take another model"
        ) from error
    for message in messages:
        content = message["content"]
        if message["role"] == "assistant":  # templates take the thinking of earlier turns out
            content = content.rpartition("</think>")[2]
        if content.strip() not in text:
            raise ValueError(
                f"the chat template of {lm.name} leaves out or changes the {message['role']} "
                f"message {quoted(message['content'])}: send others, or take another model"
            )
    return text


def _dated(template: str, day: datetime.date) -> str:
    """The template with a clock of its own that stands at midnight of a day."""
    if "strftime_now" not in template:
        return template
    midnight = datetime.datetime.combine(day, datetime.time())
    written = {f"%{d}": midnight.strftime(f"%{d}") for d in _DIRECTIVES}
    written |= {f"%-{d}": midnight.strftime(f"%-{d}") for d in "dHIjmMSUVWy"}
    replaced = "".join(f' | replace("{d}", "{text}")' for d, text in written.items())
    return f"{{% macro strftime_now(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}{template}"


def _check_arguments(template: str, arguments: Mapping[str, Any]) -> None:
    """Raise ValueError for an argument that the template never reads."""
    known = _variables(template) if arguments else []
    for name in arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            those = listed(known) if known else "none"
            hint = f"did you mean {near[0]}?" if near else f"it has {those}"
            raise ValueError(f"it has no argument {quoted(name)}: {hint}")


@functools.lru_cache  # it is asked for every row
def _variables(template: str) -> list[str]:
    """Names that a template reads and a caller may give, sorted."""
    from jinja2 import Environment, meta

    # A tag that transformers adds to the language, and jinja alone does not know.
    source = re.sub(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}", "", template)
    environment = Environment(extensions=["jinja2.ext.loopcontrols"])  # noqa: S701 (only parses)
    tree = environment.parse(source)
    return sorted(meta.find_undeclared_variables(tree) - _OURS)
