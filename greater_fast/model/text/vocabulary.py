"""The tokenizer as the method needs it: ids of a text in place, and the text of ids in place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from greater_fast.model.text.scripts import Alphabet
from greater_fast.model.text.special_text import literal_double
from greater_fast.wording import quoted

HALF_CHARACTER = "\ufffd"  # reads a part of a character that stands alone
ANCHOR = "a"  # a text stands behind it as it stands inside a sequence: its leading space survives
_OTHER_ANCHORS = ("\n", ".", "1")  # for a text that merges with it
_PROBE = " The answer is 18, or B."


class Vocabulary:
    """One tokenizer. `tokenizer` must be a fast one: offsets tell which token a character is in.

    Raises:
        ValueError: the tokenizer gives no offsets, has no ids for plain text, or does not give text
            back as it was.
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
        (self._anchor_text,) = self._whole_texts([self._anchor_ids])  # some put a space before it
        self._masks: dict[Alphabet, torch.Tensor] = {}
        self._completing: dict[tuple[str, ...], frozenset[int]] = {}
        ids = self.ids(_PROBE)
        if self.text(ids) != _PROBE or self._encode(f"so{_PROBE}")[-len(ids) :] != list(ids):
            raise ValueError(
                f"the tokenizer does not give text back: {_PROBE!r} becomes "
                f"{quoted(self.text(ids))}, so that no prompt could be written down as it was "
                "tried: use another model"
            )

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode(self, texts: Sequence[str], *, special_tokens: bool) -> list[list[int]]:
        """Ids of whole texts; `special_tokens` lets the tokenizer put its own before them (BOS)."""
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=special_tokens)["input_ids"]
        behind = self._num_behind if special_tokens else 0
        return [list(ids[: len(ids) - behind]) for ids in encoded]

    def offsets(
        self, texts: Sequence[str], *, special_tokens: bool
    ) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Ids of whole texts, with the characters [start, stop) that each id covers."""
        encoded = self.tokenizer(
            list(texts), add_special_tokens=special_tokens, return_offsets_mapping=True
        )
        behind = self._num_behind if special_tokens else 0
        pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return [(ids[: len(ids) - behind], spans[: len(ids) - behind]) for ids, spans in pairs]

    @cached_property
    def _num_behind(self) -> int:
        """Tokens that the tokenizer adds behind a text (EOS): what goes on has none of them."""
        ids, anchor = list(self.tokenizer(ANCHOR)["input_ids"]), self._anchor_ids
        stops = [i for i in range(len(ids) + 1) if ids[:i][-len(anchor) :] == anchor]
        return len(ids) - stops[-1] if stops else 0

    def ids(self, text: str, behind: str = "") -> tuple[int, ...]:
        """Ids of a text that follows other text; its leading space belongs to its first token.

        With what stands `behind` it they are those that it has there: an empty line is often one
        token at a text's end, and two before a bracket. A token that goes on into it is the last
        one. The name of a special token in the text is read as text.

        Raises:
            ValueError: the tokenizer merges the text with what stands before it.
        """
        if self.names_special(text + behind):
            return self.literal.ids(text, behind)
        ids = self._encode(ANCHOR + text + behind)
        start = len(self._anchor_ids)
        if ids[:start] != self._anchor_ids:
            raise ValueError(f"the tokenizer merges {quoted(text)} with the text before it")
        ids = ids[start:]
        if behind:
            read = self._texts([ids[:number] for number in range(len(ids) + 1)])
            covering = [number for number, part in enumerate(read) if part.startswith(text)]
            ids = ids[: covering[0]] if covering else list(self.ids(text))
        return tuple(ids)

    def spelled(self, ids: Sequence[int], text: str) -> tuple[int, ...]:
        """Ids that add a text to that of `ids`; none where the tokenizer cannot write it there."""
        for anchor in (ANCHOR, *_OTHER_ANCHORS) if text else ():
            start, found = self._encode(anchor), self._encode(anchor + text)
            more = found[len(start) :]
            if found[: len(start)] == start and self.text([*ids, *more]) == self.text(ids) + text:
                return tuple(more)
        return ()

    def text(self, ids: Sequence[int]) -> str:
        """Text of ids that follow other text, with the space in front where they carry one."""
        return self._texts([ids])[0]

    def _texts(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        texts = self._whole_texts([[*self._anchor_ids, *ids] for ids in sequences])
        return [text.removeprefix(self._anchor_text) for text in texts]

    def _whole_texts(self, sequences: list[list[int]]) -> list[str]:
        texts: list[str] = self.tokenizer.batch_decode(
            sequences, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return texts

    def whole_text(self, ids: Sequence[int]) -> str:
        """Text of a whole sequence with its special tokens, as the model reads it."""
        return self._whole_texts([list(ids)])[0]

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

    def names_special(self, text: str) -> bool:
        """Whether the tokenizer would read a special token in a text."""
        return bool(self._special_names.search(text))

    @cached_property
    def _special_names(self) -> re.Pattern[str]:
        names = (t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special)
        longest_first = sorted(names, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    @cached_property
    def literal(self) -> Vocabulary:
        """Ids of texts in which a special token is one only where it was `hidden`."""
        return Vocabulary(self._double[0])

    def hidden(self, text: str) -> str:
        """A text for `literal` in which special tokens remain what they are; of the same length."""
        return self._special_names.sub(lambda name: self._double[1][name[0]], text)

    @cached_property
    def _double(self) -> tuple[Any, dict[str, str]]:
        return literal_double(self.tokenizer)

    @cached_property
    def token_texts(self) -> list[str]:
        """Each id's text behind other text; ids that name no token have none."""
        size = max(self.tokenizer.get_vocab().values()) + 1
        return self._texts([[i] for i in range(size)])

    @cached_property
    def words(self) -> torch.Tensor:
        """[V] int64: a number for each id, the same where only case or outer space differ."""
        words = [text.strip().casefold() for text in self.token_texts]
        numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
        return torch.tensor([numbers[word] for word in words])

    def completing(self, texts: tuple[str, ...]) -> frozenset[int]:
        """Ids that can complete one of some texts: it ends with such a token, or inside of it.

        Parts of characters are all among them: what they read depends on those before.
        """
        if texts not in self._completing:
            ends = tuple({text[start:] for text in texts for start in range(len(text))})
            self._completing[texts] = frozenset(
                number
                for number, token in enumerate(self.token_texts)
                if token.startswith(ends)
                or HALF_CHARACTER in token
                or any(text in token for text in texts)
            )
        return self._completing[texts]

    def candidate_mask(self, alphabet: Alphabet) -> torch.Tensor:
        """Ids that a prompt may be changed to: tokens spelled in an alphabet (GREATER, step 1).

        [V] bool, on the CPU; V is one more than the highest id, special ids are False.
        """
        if alphabet not in self._masks:
            mask = torch.tensor(alphabet.spelled(self.token_texts))
            mask[list(self.special_ids)] = False
            self._masks[alphabet] = mask
        return self._masks[alphabet]
