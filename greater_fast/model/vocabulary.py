"""The tokenizer as the method needs it: ids of a text in place, and the text of ids in place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

ANCHOR = "a"  # a text stands behind it as it stands inside a sequence: its leading space survives
_CANDIDATE = re.compile(r"[A-Za-z ]+|[.,]")


class Vocabulary:
    """One tokenizer. `tokenizer` must be a fast one: offsets tell which token a character is in.

    Raises:
        ValueError: the tokenizer gives no offsets, or has no ids for plain text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(
                f"got {type(tokenizer).__name__}, expected a fast tokenizer (with offsets): "
                "save the model with its tokenizer.json"
            )
        self._anchor_ids = self._encode(ANCHOR)
        if not self._anchor_ids:
            raise ValueError("the tokenizer has no ids for plain text: is this a text model?")

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode(self, texts: Sequence[str], *, special_tokens: bool) -> list[list[int]]:
        """Ids of whole texts; `special_tokens` lets the tokenizer add its own (BOS)."""
        if not texts:
            return []
        return [
            list(ids)
            for ids in self.tokenizer(list(texts), add_special_tokens=special_tokens)["input_ids"]
        ]

    def offsets(
        self, texts: Sequence[str], *, special_tokens: bool
    ) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Ids of whole texts, with the characters [start, stop) that each id covers."""
        encoded = self.tokenizer(
            list(texts), add_special_tokens=special_tokens, return_offsets_mapping=True
        )
        return list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))

    def ids(self, text: str) -> tuple[int, ...]:
        """Ids of a text that follows other text; its leading space belongs to its first token.

        Raises:
            ValueError: the tokenizer merges the text with what stands before it.
        """
        ids = self._encode(ANCHOR + text)
        start = len(self._anchor_ids)
        if ids[:start] != self._anchor_ids:
            raise ValueError(f"the tokenizer merges {text!r} with the text before it")
        return tuple(ids[start:])

    def text(self, ids: Sequence[int]) -> str:
        """Text of ids that follow other text, with the space in front where they carry one."""
        return self._decode([[*self._anchor_ids, *ids]])[0]

    def _decode(self, sequences: list[list[int]]) -> list[str]:
        texts = self.tokenizer.batch_decode(
            sequences, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return [text.removeprefix(ANCHOR) for text in texts]

    def plain_text(self, ids: Sequence[int]) -> str:
        """Text of generated ids for a reader: special tokens left out, outer space removed."""
        text: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text.strip()

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text: named by the tokenizer, or added to it as special."""
        added = {i for i, t in self.tokenizer.added_tokens_decoder.items() if t.special}
        return frozenset(added.union(self.tokenizer.all_special_ids))

    @cached_property
    def candidate_mask(self) -> torch.Tensor:
        """Ids that a prompt may be changed to: ASCII letters and spaces, or one of ". ,".

        [V] bool, on the CPU; V is the tokenizer's size, special ids are False (GREATER, step 1).
        """
        size, special = len(self.tokenizer), self.special_ids
        texts = self._decode([[*self._anchor_ids, i] for i in range(size)])
        return torch.tensor(
            [i not in special and bool(_CANDIDATE.fullmatch(t)) for i, t in enumerate(texts)]
        )
