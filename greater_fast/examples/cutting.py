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
_FULL_STOP = re.compile(r"[.．](?=\s|$)|[。｡।۔]")  # not a decimal point


def cut_answer(generated: str, closing: str) -> str:
    """The answer in a generated continuation: up to what closes it, or the line's end.

    What leads up to it is skipped, line breaks too. A closing of several characters, such as
    "</answer>", is looked for beyond the line.
    """
    closing = closing.strip()
    if len(closing) > 1:
        generated, closes, _ = generated.strip().partition(closing)
        generated = generated.removeprefix(opening_of(closing))
        if closes:
            return generated.strip()
    return _up_to(closing, without_lead(generated)) or _up_to(closing, generated)


def end_of(closing: str) -> str:
    """A regular expression for a closing mark; a dollar sign behind a backslash is no mark."""
    return r"(?<!\\)\$" if closing == "$" else re.escape(closing)


def opening_of(closing: str) -> str:
    """The mark or tag that `closing` closes; "" for none. One opened once more is no answer."""
    if closing.startswith("</"):
        return closing.replace("/", "", 1)
    return closing if len(closing) == 1 and closing != "." else ""


def _up_to(closing: str, text: str) -> str:
    text = text.strip()
    line = text.split("\n", 1)[0]
    if closing == ".":
        return _FULL_STOP.split(line, maxsplit=1)[0].strip()
    if closing:
        line = re.split(end_of(closing), line.removeprefix(opening_of(closing)), maxsplit=1)[0]
    return line.strip()


def without_thought(text: str) -> str:
    """What a text says behind the thought that it begins with; "" where that does not end."""
    for opening, closing in THOUGHTS:
        _, closes, behind = text.rpartition(closing)
        if closes:  # what opened it may stand in the message before
            return behind
        if text.lstrip().startswith(opening):
            return ""
    return text
