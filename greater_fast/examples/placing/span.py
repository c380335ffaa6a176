"""The ids of a prompt inside of each row's text, and of what stands around it."""

from __future__ import annotations

from collections.abc import Sequence

from greater_fast.examples.placing.joint import Joint
from greater_fast.model.text.vocabulary import Vocabulary
from greater_fast.wording import quoted

Ids = tuple[int, ...]


def place_prompt(
    vocabulary: Vocabulary,
    around: Sequence[tuple[str, str]],
    prompt: str,
    joint: Joint,
    names: Sequence[str],
    *,
    special_tokens: bool,
) -> list[tuple[Ids, Ids, Ids]]:
    """Ids before, in and behind the prompt of each row, the same in it on all of them.

    `around` are the rows' texts before and behind it, its joint aside; `names` are the rows' for a
    reader. `special_tokens` lets the tokenizer put its own before a text.

    Raises:
        ValueError: the prompt merges with the text around it, or nothing stands before it.
    """
    placed, own = joint.placed(prompt), joint.num_own(prompt)
    encoded = vocabulary.offsets(
        [f"{before}{placed}{after}" for before, after in around], special_tokens=special_tokens
    )
    spans = [
        _split(ids, offsets, (len(before), len(before) + own), name)
        for (ids, offsets), (before, _), name in zip(encoded, around, names, strict=True)
    ]
    for (head, middle, _), name in zip(spans, names, strict=True):
        if middle != spans[0][1]:
            raise ValueError(
                f"the prompt has other tokens on {name} than on {names[0]}: "
                "it merges with the text around it"
            )
        if not head:
            raise ValueError(
                "no token stands before the prompt, so the model cannot propose its first token: "
                "use prompt_placement='after'"
            )
    return spans


def _split(
    ids: Sequence[int], offsets: Sequence[tuple[int, int]], span: tuple[int, int], row: str
) -> tuple[Ids, Ids, Ids]:
    """Ids before, in and behind the characters [start, stop) of `span`."""
    start, stop = span
    inside = [i for i, (a, b) in enumerate(offsets) if b > start and a < stop]
    if not inside or any(offsets[i][0] < start or offsets[i][1] > stop for i in inside):
        raise ValueError(
            f"on {row} the tokenizer merges the prompt with the text around it: "
            "change the prompt's first or last word"
        )
    first, last = inside[0], inside[-1] + 1
    return tuple(ids[:first]), tuple(ids[first:last]), tuple(ids[last:])


def check_prompt_ids(
    vocabulary: Vocabulary, prompt: str, prompt_ids: Sequence[int], max_prompt_tokens: int
) -> None:
    """Raise ValueError for a prompt of too few or too many tokens, or one that lacks some."""
    if not 2 <= len(prompt_ids) <= max_prompt_tokens:
        raise ValueError(
            f"the prompt {quoted(prompt)} has {len(prompt_ids)} tokens, expected 2 to "
            f"{max_prompt_tokens} (max_prompt_tokens)"
        )
    if vocabulary.tokenizer.unk_token_id in prompt_ids:
        raise ValueError(
            f"the tokenizer has no tokens for some characters of the prompt {quoted(prompt)}: "
            f"it reads {quoted(vocabulary.text(prompt_ids).strip())}; write it without them"
        )


def check_embedded(vocabulary: Vocabulary, what: str, ids: Sequence[int], size: int) -> None:
    """Raise ValueError for an id that a model of `size` embeddings has none for."""
    if max(ids, default=0) >= size:
        token = vocabulary.tokenizer.convert_ids_to_tokens(max(ids))
        raise ValueError(
            f"{what} has the token {quoted(token)} with id {max(ids)}, but the model has "
            f"embeddings for {size} ids only: take the tokenizer that the model was trained with, "
            "or a chat template without that token"
        )
