"""Which ids end a turn of the assistant."""

from __future__ import annotations

from typing import Any

from greater_fast.model.text.vocabulary import Vocabulary


def end_ids(model: Any, vocabulary: Vocabulary) -> frozenset[int]:
    """Ids that end the assistant's turn: of the generation settings, tokenizer and template.

    Raises:
        ValueError: none of them names any.
    """
    found: set[int] = set()
    tokenizer = vocabulary.tokenizer
    for holder in (getattr(model, "generation_config", None), model.config, tokenizer):
        ids = getattr(holder, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or [])
    if getattr(tokenizer, "chat_template", None):
        found.update(_turn_end(vocabulary))
    if not found:
        raise ValueError("neither the model nor its tokenizer names an end-of-text id")
    return frozenset(found)


def _turn_end(vocabulary: Vocabulary) -> list[int]:
    """The special id that the chat template writes behind an assistant's message, if any."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "zyx"}]
    try:
        text = vocabulary.tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # it is anybody's program: it needs arguments, or refuses the role
        return []
    _, found, behind = text.rpartition("zyx")
    (ids,) = vocabulary.encode([behind.strip() if found else ""], special_tokens=False)
    return [i for i in ids[:1] if i in vocabulary.special_ids]
