"""What is read from a server's replies: their shape is checked, for nothing of them is sure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from greater_fast.examples.cutting import without_thought
from greater_fast.front_ends.endpoint.client import MalformedError
from greater_fast.wording import quoted


@dataclass(frozen=True, slots=True)
class Answered:
    """A row's reasoning, and what was written behind the extractor, as texts.

    It is `exact` where the answer followed the very tokens that the server had generated, as far as
    counts tell; else the reasoning's text was turned into tokens again, and came to others, or for
    None to others perhaps, as the server does not count. An answer that a turn of its own brings
    can have a `flaw`: "empty", or "cut off" at its token limit.
    """

    reasoning: str
    answer: str
    cut_off: bool
    exact: bool | None = True
    flaw: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """What a server wrote behind a prompt; `ids` and the counts are None where it does not say."""

    text: str
    cut_off: bool
    ids: tuple[int, ...] | None = None
    num_prompt_tokens: int | None = None
    num_tokens: int | None = None


def completion(most_tokens: int, vocab_size: int) -> Callable[[Mapping[str, Any]], Written]:
    """What reads the reply of `/completions`: at most so many tokens, of a vocabulary."""

    def read(reply: Mapping[str, Any]) -> Written:
        choice = _choice(reply)
        ids = choice.get("token_ids")
        if ids is not None and not (
            isinstance(ids, list)
            and len(ids) <= most_tokens
            and all(type(number) is int and 0 <= number < vocab_size for number in ids)
        ):
            raise MalformedError(
                f"the server's reply has token ids that are none of this vocabulary, or more than "
                f"{most_tokens}: {quoted(ids)}"
            )
        return Written(
            _text(choice, "text"),
            _cut_off(choice),
            None if ids is None else tuple(ids),
            _count(reply, "prompt_tokens"),
            _count(reply, "completion_tokens"),
        )

    return read


def chat_reasoning(reply: Mapping[str, Any]) -> Written:
    """What `/chat/completions` says of a row: the content, or a thought that never came to one."""
    choice = _choice(reply)
    message = _message(choice)
    content = _content(message)
    thought = next((n for n in ("reasoning_content", "reasoning") if message.get(n)), None)
    text = _text(message, thought) if thought is not None and not content else content
    return Written(text, _cut_off(choice))


def chat_answer(reply: Mapping[str, Any]) -> Written:
    """What `/chat/completions` answers: the content alone, "" where it thinks, refuses or filters.

    A thought is no answer, whatever stands in it, be it in a field of its own or in the content.
    """
    choice = _choice(reply)
    return Written(without_thought(_content(_message(choice))), _cut_off(choice))


def _choice(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        told = f": {quoted(reply['error'])}" if reply.get("error") else ""
        raise MalformedError(f"the server's reply has no choices, but {quoted(list(reply))}{told}")
    return choices[0]


def _message(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    message = choice.get("message")
    if not isinstance(message, dict):
        raise MalformedError("the server's reply has no message")
    return message


def _content(message: Mapping[str, Any]) -> str:
    """A message's content: a text, texts in parts, or "" where there is none."""
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return "".join(_text(part, "text") for part in content if part.get("type") == "text")
    return _text(message, "content")


def _text(holder: Mapping[str, Any], name: str) -> str:
    text = holder.get(name)
    if not isinstance(text, str):
        raise MalformedError(f"the server's reply has no {name}, but {quoted(text)}")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can write what no tokenizer or file takes
        raise MalformedError(
            f"the server's reply has half a character in its {name}: {quoted(text[error.start :])}"
        ) from None
    return text


def _cut_off(choice: Mapping[str, Any]) -> bool:
    """Whether the token limit ended the text."""
    return choice.get("finish_reason") == "length"


def _count(reply: Mapping[str, Any], name: str) -> int | None:
    usage = reply.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if type(count) is int and count > 0 else None
