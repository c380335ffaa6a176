"""Texts that end what a model writes: found by the ids that can complete one, cut off exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from greater_fast.model.text.vocabulary import HALF_CHARACTER, Vocabulary
from greater_fast.wording import quoted


class Cut(NamedTuple):
    """What remains of generated ids before a stop text: the first `num_kept`, and `ids` after them.

    `ids` spell what an id has before the stop text that begins inside of it. `number` is the stop
    text's among those that were given.
    """

    num_kept: int
    ids: tuple[int, ...]
    number: int


class StopTexts:
    """Texts of which the first to stand in a generated text ends it, and is no part of it.

    The text is read as `Vocabulary.text` of all that was generated, from its first token on. It
    ends with the token that completes a stop text, wherever in that token it does; of several that
    one completes, the stop text that begins first counts. `name` is what errors call them.

    Raises:
        ValueError: there is none, one is empty, or one holds half a character.
    """

    def __init__(
        self, vocabulary: Vocabulary, texts: Sequence[str], name: str = "stop_texts"
    ) -> None:
        if isinstance(texts, str) or not texts:
            raise ValueError(f"{name}: got {quoted(texts)}, expected a list of texts")
        given: tuple[Any, ...] = tuple(texts)
        for text in given:
            if not isinstance(text, str) or text == "" or HALF_CHARACTER in text:
                raise ValueError(f"{name}: got {quoted(text)}, expected a text of whole characters")
        self.texts: tuple[str, ...] = given
        self._vocabulary = vocabulary

    @classmethod
    def of(
        cls, vocabulary: Vocabulary, texts: Sequence[str], name: str = "stop_texts"
    ) -> StopTexts | None:
        """Those of texts, or None where the list is empty."""
        is_empty = not isinstance(texts, str) and len(texts) == 0
        return None if is_empty else cls(vocabulary, texts, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StopTexts) and self.texts == other.texts

    def __hash__(self) -> int:
        return hash(self.texts)

    @property
    def last_ids(self) -> frozenset[int]:
        """Ids that can complete a stop text; the text is looked at where one was written alone."""
        return self._vocabulary.completing(self.texts)

    def cut(self, ids: Sequence[int], limit: int) -> Cut | None:
        """What remains of `ids` before the first stop text in them, if there is one.

        At most `limit` ids remain: where an id's beginning is spelled in more than there is room
        for, the last of these are missing.
        """
        text = self._vocabulary.text(ids)
        places = [(text.find(stop), number) for number, stop in enumerate(self.texts)]
        place, number = min((p for p in places if p[0] >= 0), default=(-1, -1))
        if place < 0:
            return None
        kept, before = len(ids), text
        while len(before) > place or not text.startswith(before):
            kept -= 1
            before = self._vocabulary.text(ids[:kept])
        spelled = self._vocabulary.spelled(ids[:kept], text[len(before) : place])
        return Cut(kept, spelled[: limit - kept], number)

    def first_cut(self, ids: Sequence[int], limit: int) -> tuple[int, Cut] | None:
        """The number of ids that were written when a stop text was complete, and what remains."""
        for count, number in enumerate(ids, 1):
            if number in self.last_ids and (cut := self.cut(ids[:count], limit)):
                return count, cut
        return None
