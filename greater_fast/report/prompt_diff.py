"""What changed between two prompts: words marked as removed, or added."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

from greater_fast.report.wording import cut

# White space; a letter of a script that is written without spaces; another word; a mark.
_NO_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_PIECES = re.compile(rf"\s+|[{_NO_SPACES}]|[^\W{_NO_SPACES}]+|[^\w\s]|.", re.DOTALL)
_MOST_PIECES = 3000  # comparing takes their square


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text: `same` in both prompts, `removed` from the first, or `added`."""

    kind: str
    text: str


def changes(before: str, after: str) -> list[Piece]:
    """Both prompts as one text, in stretches; prompts too long to compare are two stretches."""
    first, second = _PIECES.findall(before), _PIECES.findall(after)
    if len(first) + len(second) > _MOST_PIECES and before != after:
        return [Piece("removed", before), Piece("added", after)]
    return [piece for piece in _stretches(first, second) if piece.text]


def _stretches(first: list[str], second: list[str]) -> Iterator[Piece]:
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    for tag, i, i_end, j, j_end in matcher.get_opcodes():
        if tag == "equal":
            yield Piece("same", "".join(first[i:i_end]))
        else:
            yield Piece("removed", "".join(first[i:i_end]))
            yield Piece("added", "".join(second[j:j_end]))


def shown(pieces: list[Piece], *, without: str = "", most: int) -> list[Piece]:
    """The stretches but those of a kind, of at most so many characters each."""
    return [Piece(p.kind, cut(p.text, most)) for p in pieces if p.kind != without]


def in_context(pieces: list[Piece], around: int = 40) -> list[Piece]:
    """The stretches with what is the same on both sides cut to so many characters beside them."""
    return [
        Piece(piece.kind, _cut_between(piece.text, around, n == 0, n == len(pieces) - 1))
        if piece.kind == "same"
        else Piece(piece.kind, cut(piece.text, 400))
        for n, piece in enumerate(pieces)
    ]


def _cut_between(text: str, around: int, is_first: bool, is_last: bool) -> str:
    if len(text) <= (around if is_first or is_last else 2 * around):
        return cut(text, len(text))
    head = "" if is_first else text[:around].rpartition(" ")[0] or text[:around]
    tail = "" if is_last else text[-around:].partition(" ")[2] or text[-around:]
    return cut(f"{head} … {tail}", 4 * around)
