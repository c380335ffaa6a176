"""Reading the answer out of what a model wrote behind the extractor."""

import re

from greater_fast.examples.marks import without_lead

# What opens a thought, and what closes it.
THOUGHTS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
_FULL_STOP = r"[.．](?=\s|$)|[。｡।۔]"  # not a decimal point
_OPENING = {")": "(", "]": "[", "}": "{"}
_MOST_NESTED = 4  # brackets in one another, within an answer that a bracket closes


def cut_answer(generated: str, closing: str) -> str:
    r"""The answer in a generated continuation: up to what closes it, or the line's end.

    What leads up to it is skipped, line breaks too. Brackets that open in an answer close there: of
    "\frac{1}{2}}" the last one closes it. A closing of several characters, such as "</answer>", is
    looked for beyond the line, unless a bracket begins it.
    """
    closing = closing_mark(closing)
    if len(closing) > 1:
        generated = generated.strip().removeprefix(opening_of(closing))
        if found := re.match(closed_answer(closing), generated):
            return found[1].strip()
    return _up_to(closing, without_lead(generated)) or _up_to(closing, generated)


def closed_answer(closing: str) -> str:
    """A regular expression for an answer, its one group, and what closes it; both stripped."""
    answer, end = answer_and_end(closing)
    return f"({answer})(?:{end})"


def answer_and_end(closing: str, guard: str = "") -> tuple[str, str]:
    """Regular expressions for an answer and for what ends it: the closing, or its bracket.

    `guard` is looked for before each character of the answer that is in no bracket.
    """
    closing = closing_mark(closing)
    if closing in _OPENING:
        return _balanced(closing, guard), re.escape(closing)
    anything = r"[\s\S]" if len(closing) > 1 else r"[^\n]"
    ends = {"": r"\n", ".": _FULL_STOP, "$": r"(?<!\\)\$"}  # "\$" is no mark
    return f"(?:{guard}{anything})*?", ends.get(closing) or re.escape(closing)


def closing_mark(closing: str) -> str:
    """What ends an answer: of a closing that a bracket begins, that bracket."""
    closing = closing.strip()
    return closing[:1] if closing[:1] in _OPENING else closing


def opening_of(closing: str) -> str:
    """The mark or tag that `closing` closes; "" for none. One opened once more is no answer."""
    if closing.startswith("</"):
        return closing.replace("/", "", 1)
    return closing if len(closing) == 1 and closing not in (".", *_OPENING) else ""


def _balanced(bracket: str, guard: str) -> str:
    """A regular expression for text on one line in which no bracket of that kind stays open."""
    opening, closing = re.escape(_OPENING[bracket]), re.escape(bracket)
    single = rf"[^{opening}{closing}\\\n]|\\[^\n]"
    nested = f"(?:{single})*"
    for _ in range(_MOST_NESTED - 1):
        nested = f"(?:{single}|{opening}{nested}{closing})*"
    return f"(?:{guard}(?:{single}|{opening}{nested}{closing}))*"


def _up_to(closing: str, text: str) -> str:
    text = text.strip().removeprefix(opening_of(closing))
    found = re.match(closed_answer(closing), text)
    return (found[1] if found else text.split("\n", 1)[0]).strip()


def without_thought(text: str) -> str:
    """What a text says behind the thought that it begins with; "" where that does not end."""
    for opening, closing in THOUGHTS:
        _, closes, behind = text.rpartition(closing)
        if closes:  # what opened it may stand in the message before
            return behind
        if text.lstrip().startswith(opening):
            return ""
    return text
