"""The extractor: the text that, after the reasoning, makes the answer the very next tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from greater_fast.model.scripts import space_before, space_behind

_CLOSING = {"$": "$", '"': '"', "'": "'", "`": "`", "(": ")", "[": "]", "{": "}"}
_PLACEHOLDER = "{answer}"
_LARGEST_CLOSED_SET = 12


@dataclass(frozen=True, slots=True)
class Extractor:
    """A text such as "Therefore, the final answer is", and how an answer stands behind it.

    `separator` stands between text and answer, `closing` behind the answer and is scored with it,
    so that 18 is not 180.
    """

    text: str
    separator: str
    closing: str
    origin: str

    def in_place(self) -> str:
        """The text as it follows the reasoning; a space before it belongs to its first token."""
        return f"{space_before(self.text)}{self.text}"

    def answer_in_place(self, answer: str) -> str:
        """The answer as it follows the extractor, with what closes it."""
        return f"{self.separator}{answer}{self.closing}".rstrip(" ")

    def in_config(self) -> str:
        """The text that makes this extractor again."""
        return f"{self.text}{self.separator}{_PLACEHOLDER}{self.closing}"

    def describe(self) -> str:
        """One line for a reader: the text, and where it comes from."""
        return f"extractor ({self.origin}): {self.in_config()!r}"

    def cut(self, generated: str) -> str:
        """The answer in a generated continuation: up to its closing, or the line's end."""
        line = generated.strip(" ").split("\n", 1)[0]
        closing = self.closing.strip()
        if closing == ".":  # a full stop, not a decimal point
            return re.split(r"\.(?=\s|$)", line, maxsplit=1)[0].strip()
        if closing:  # a mark that is opened once more is no answer
            line = line.removeprefix(closing).split(closing, 1)[0]
        return line.strip()


def make_extractor(text: str, origin: str = "given") -> Extractor:
    """An extractor from its text.

    `{answer}` in the text stands for the answer, and what follows it closes the answer. Without it,
    a text that ends in an opening mark ("$", a quote, a bracket) has the answer closed by its
    counterpart; white space behind the mark is repeated before the counterpart.

    Raises:
        ValueError: there is no text before the answer.
    """
    before, found, closing = text.partition(_PLACEHOLDER)
    stripped = before.strip()
    if not stripped:
        raise ValueError(
            "the extractor is empty: give a text that asks for the answer, such as "
            "'Therefore, the final answer is {answer}.', or leave it out to have one derived"
        )
    if found:
        return Extractor(stripped, " " if before[-1].isspace() else "", closing.rstrip(), origin)
    mark = _CLOSING.get(stripped[-1], "")
    joined = mark or not space_behind(stripped)
    separator = "" if joined and not text[-1].isspace() else " "
    return Extractor(stripped, separator, separator + mark if mark else "", origin)


def derive_extractor(answers: Sequence[str]) -> Extractor:
    """An extractor for the kind of answers that the training rows have; `origin` names it.

    A closed set is listed in the form in which the answer is to be given: small models copy it.
    Other answers stand in a sentence of their own, which small models close with a full stop.
    """
    distinct = sorted(set(answers))
    listed = " or ".join(f"$ {a} $" for a in distinct)
    if all(re.fullmatch("[A-Z]", a) for a in distinct):
        text = f"Therefore, the letter of the right choice, {listed}, is $ "
        return make_extractor(text, f"derived: choice letters {', '.join(distinct)}")
    sentence = f"Therefore, the final answer is {_PLACEHOLDER}."
    if all(re.fullmatch(r"[-+]?\$?\d[\d,]*(\.\d+)?", a) for a in distinct):
        return make_extractor(sentence, "derived: numbers")
    if len(distinct) <= min(_LARGEST_CLOSED_SET, len(answers) // 2):
        text = f"Therefore, the final answer, {listed}, is $ "
        return make_extractor(text, f"derived: one of {', '.join(distinct)}")
    return make_extractor(sentence, "derived: short text")
