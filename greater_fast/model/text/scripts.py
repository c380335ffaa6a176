"""How scripts differ: their letters, their marks, and whether spaces stand between words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_WRITTEN_TOGETHER = frozenset(
    {"CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"}
)
# A regular expression for a character of a word in a script that puts spaces between them.
WORD_APART = (
    r"[^\W\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\u2e80-\u2fdf\u3005-\u312f"
    r"\u3190-\u9fff\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff00-\uff9f"
    r"\U0001aff0-\U0001b16f\U00020000-\U0003ffff]"
)
_JAPANESE = frozenset({"CJK", "HIRAGANA", "KATAKANA"})
_WIDE_MARKS = re.compile("[\u3000-\u303f\uff00-\uff65]")  # CJK punctuation, full-width forms
_STOPS = "。．｡۔।॥։።။។།"
_COMMAS = "，､、،՝፣၊"
_ENDS = frozenset(f".!?…！？؟⁇⁈⁉‼՜՞፧{_STOPS}")
_CLOSING = frozenset("\"'`*_")  # beside closing brackets and quotes, behind the end of a sentence


def script_of(char: str) -> str:
    """A script's name in Unicode's names of characters: LATIN, CYRILLIC, CJK ("" for none)."""
    if _WIDE_MARKS.match(char) and not _is_letter(char):
        return "CJK"
    found = re.match("[A-Z]+", unicodedata.name(char, ""))
    name = found[0] if found else ""
    return "CJK" if name == "IDEOGRAPHIC" else name


def _is_letter(char: str) -> bool:
    return unicodedata.category(char)[0] == "L"


def written_together(char: str) -> bool:
    """Whether a character is of a script that puts no spaces between words."""
    return script_of(char) in _WRITTEN_TOGETHER


def space_before(text: str) -> str:
    """What joins a text to the one before it: a space, or nothing in scripts without them."""
    return "" if text and written_together(text[0]) else " "


def space_behind(text: str) -> str:
    """What joins a text to the one behind it."""
    return "" if text and written_together(text[-1]) else " "


def ends_sentence(text: str) -> bool:
    """Whether a text ends with a mark that ends a sentence, closing quotes and brackets aside."""
    end = len(text)
    while end and (
        text[end - 1] in _CLOSING or unicodedata.category(text[end - 1]) in ("Pe", "Pf")
    ):
        end -= 1
    return end > 0 and text[end - 1] in _ENDS


@dataclass(frozen=True, slots=True)
class Alphabet:
    """What tokens of a prompt may be made of: letters of `scripts`, or one of `marks`.

    The script ASCII is the Latin letters without accents.
    """

    scripts: frozenset[str] = frozenset({"ASCII"})
    marks: frozenset[str] = frozenset(".,")

    @classmethod
    def of(cls, prompt: str) -> Alphabet:
        """Letters of the scripts that a prompt uses; all of Latin only where it has accents."""
        letters = {c for c in unicodedata.normalize("NFC", prompt) if _is_letter(c)}
        scripts = {"ASCII" if c.isascii() else script_of(c) for c in letters}
        if scripts & {"HIRAGANA", "KATAKANA"}:
            scripts |= _JAPANESE
        marks = {m for m in _STOPS + _COMMAS if m in prompt or script_of(m) in scripts}
        return cls(frozenset(scripts) or frozenset({"ASCII"}), frozenset({".", ",", *marks}))

    def spelled(self, tokens: Sequence[str]) -> list[bool]:
        """Which tokens are letters, with a space in front at most, or a mark, and nothing else.

        No space stands in front of letters that are written together, nor of a sign that belongs to
        the letter before it.
        """
        letters = self._letters({char for token in tokens for char in token})
        attached = {char for char in letters if written_together(char) or not _is_letter(char)}
        return [self._is_spelled(token, letters, attached) for token in tokens]

    def _letters(self, chars: Iterable[str]) -> set[str]:
        """Those that are letters of the scripts, or signs that belong to these."""
        return {
            char
            for char in chars
            if unicodedata.category(char)[0] in "LM"
            and (script_of(char) in self.scripts or ("ASCII" in self.scripts and char.isascii()))
        }

    def _is_spelled(self, token: str, letters: set[str], attached: set[str]) -> bool:
        word = token.removeprefix(" ")
        if word != token and word[:1] in attached:
            return False
        return token in self.marks or (bool(word) and letters.issuperset(word))


ASCII = Alphabet()  # the paper's
