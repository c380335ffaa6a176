"""Whether a server's chat template and tokenizer make of a row what a run made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from greater_fast.config import Config
from greater_fast.examples.layout import Layouts
from greater_fast.examples.rendering import name_of
from greater_fast.front_ends.endpoint.chat import messages_of
from greater_fast.front_ends.endpoint.client import Client
from greater_fast.model.lm import LM
from greater_fast.model.text.chat_template import has_template
from greater_fast.wording import quoted


def check_template(
    client: Client, lm: LM, layouts: Layouts, prompt: str, config: Config
) -> tuple[str, ...]:
    """Notes on what could not be checked: a row is held against what the server makes of it.

    vLLM's `/tokenize` takes a conversation; llama.cpp's `/apply-template` makes a text of it, and
    its `/tokenize` takes that. Without a chat template the row's own text is tokenised.

    Raises:
        ValueError: the server's ids are others; says where they part.
    """
    names = layouts.vocabulary.names_special
    number = next((n for n, r in enumerate(layouts.rows) if not names(r.example.question)), None)
    if number is None:
        return ("all rows name special tokens: the server's template was not checked",)
    example, ids = layouts.rows[number].example, layouts.context_ids(number, layouts.prompt_ids)
    if has_template(lm.tokenizer):
        what = "chat template"
        found = _of_messages(client, messages_of(example, prompt, config), config)
    else:
        what = "tokenizer"
        found = _of_text(client, layouts.rendered(number, layouts.prompt_ids), special=False)
    if found is None:
        return (f"the server does not say what its {what} makes of a row: that is not checked",)
    if found == ids:
        return ()
    part = next(
        (i for i, (own, other) in enumerate(zip(ids, found, strict=False)) if own != other),
        min(len(ids), len(found)),
    )
    own, other = (_around(layouts, each, part) for each in (ids, found))
    row = name_of([row.example for row in layouts.rows], number)
    raise ValueError(
        f"the server's {what} makes {len(found)} tokens of {row} where {quoted(lm.name)} makes "
        f"{len(ids)}: from token {part} on it reads {other}, not {own}; start it with the model's "
        "own template, give its tokenizer (--tokenizer), or the date that it writes "
        "(--template-date), or ask by chat (--chat)"
    )


def _of_messages(
    client: Client, messages: Sequence[Mapping[str, str]], config: Config
) -> tuple[int, ...] | None:
    """Ids of a conversation; None where the server does not say."""
    asked: dict[str, Any] = {"messages": list(messages), "add_generation_prompt": True}
    if config.chat_template_kwargs:
        asked["chat_template_kwargs"] = dict(config.chat_template_kwargs)
    named = {"model": client.server.model, **asked}
    if (found := _ids(client.offered("/tokenize", named))) is not None:
        return found
    text = client.offered("/apply-template", asked).get("prompt")
    if not isinstance(text, str):
        return None
    return _of_text(client, text, special=True)  # it leaves the BOS to its tokenizer


def _of_text(client: Client, text: str, *, special: bool) -> tuple[int, ...] | None:
    """Ids of a text: as llama.cpp is asked, then as vLLM.

    The tokenizer puts its own `special` tokens before it, or all are written out in it.
    """
    asked: tuple[dict[str, Any], ...] = (
        {"content": text, "add_special": special},
        {"model": client.server.model, "prompt": text, "add_special_tokens": special},
    )
    found = (_ids(client.offered("/tokenize", body)) for body in asked)
    return next((ids for ids in found if ids is not None), None)


def _ids(reply: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The ids of a reply; llama.cpp has none to say of a body without content."""
    ids = reply.get("tokens")
    if not isinstance(ids, list) or not ids or not all(type(i) is int for i in ids):
        return None
    return tuple(ids)


def _around(layouts: Layouts, ids: Sequence[int], place: int) -> str:
    """The text at a token, for a reader; ids that are none of the vocabulary have none."""
    shown = ids[max(0, place - 2) : place + 8]
    known = [number for number in shown if 0 <= number < layouts.vocab_size]
    return quoted(layouts.vocabulary.text(known))
