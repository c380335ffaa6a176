"""The extractor: the text that, after the reasoning, makes the answer the very next tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_CLOSING = {"$": "$", '"': '"', "'": "'", "`": "`", "(": ")", "[": "]", "{": "}"}
_LARGEST_CLOSED_SET = 12


@dataclass(frozen=True, slots=True)
class Extractor:
    """A text such as "Therefore, the final answer is $", and how an answer follows it.

    `separator` stands between an opening mark and the answer, and again before the closing mark.
    """

    text: str
    separator: str
    closing: str
    origin: str

    def in_place(self) -> str:
        """The text as it follows the reasoning; the space belongs to its first token."""
        return f" {self.text}"

    def answer_in_place(self, answer: str) -> str:
        """The answer as it follows the extractor; a closing mark is scored with it."""
        return f"{self.separator}{answer}{self.separator}{self.closing}".rstrip(" ")

    def in_config(self) -> str:
        """The text that makes this extractor again."""
        return f"{self.text}{self.separator}" if self.closing else self.text

    def describe(self) -> str:
        """One line for a reader: the text, and where it comes from."""
        return f"extractor ({self.origin}): {self.in_config()!r}"

    def cut(self, generated: str) -> str:
        """The answer in a generated continuation: up to the closing mark or the line's end."""
        answer = generated.strip(" ").split("\n", 1)[0]
        if self.closing:
            answer = answer.split(self.closing, 1)[0]
        return answer.strip()


def make_extractor(text: str, origin: str = "given") -> Extractor:
    """An extractor from its text. White space behind an opening mark is kept for the answer.

    Raises:
        ValueError: the text is empty.
    """
    stripped = text.strip()
    if not stripped:
        raise ValueError(
            "the extractor is empty: give a text that asks for the answer, such as "
            "'Therefore, the final answer is $', or leave it out to have one derived"
        )
    closing = _CLOSING.get(stripped[-1], "")
    spaced = not closing or text[-1].isspace()
    return Extractor(stripped, " " if spaced else "", closing, origin)


def derive_extractor(answers: Sequence[str]) -> Extractor:
    """An extractor for the kind of answers that the training rows have; `origin` names it."""
    distinct = sorted(set(answers))
    letters = all(re.fullmatch("[A-Z]", a) for a in distinct)
    if letters:
        listed = "the letter of the right choice"
        return make_extractor(f"Therefore, {listed} is $ ", f"derived: choice letters {distinct}")
    if all(re.fullmatch(r"[-+]?\$?\d[\d,]*(\.\d+)?", a) for a in distinct):
        return make_extractor("Therefore, the final answer is $", "derived: numbers")
    if len(distinct) <= min(_LARGEST_CLOSED_SET, len(answers) // 2):
        listed = " or ".join(f"$ {a} $" for a in distinct)
        return make_extractor(
            f"Therefore, the final answer, {listed}, is $ ", f"derived: one of {distinct}"
        )
    return make_extractor("Therefore, the final answer is $ ", "derived: short text")
