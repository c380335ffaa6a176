"""Reading the answer out of what a model wrote behind the extractor."""

import re

from greater_fast.examples.marks import without_lead

_FULL_STOP = re.compile(r"[.．](?=\s|$)|[。｡]")  # not a decimal point


def cut_answer(generated: str, closing: str) -> str:
    """The answer in a generated continuation: up to what closes it, or the line's end.

    What leads up to it is skipped, line breaks too. A closing of several characters, such as
    "</answer>", is looked for beyond the line.
    """
    closing = closing.strip()
    if len(closing) > 1:
        generated, closes, _ = generated.strip().partition(closing)
        if closing.startswith("</"):  # a tag that is opened once more is no answer
            generated = generated.removeprefix(closing.replace("/", "", 1))
        if closes:
            return generated.strip()
    return _up_to(closing, without_lead(generated)) or _up_to(closing, generated)


def _up_to(closing: str, text: str) -> str:
    text = text.strip()
    line = text.split("\n", 1)[0]
    if closing == ".":
        return _FULL_STOP.split(line, maxsplit=1)[0].strip()
    if closing:  # a mark that is opened once more is no answer
        line = line.removeprefix(closing).split(closing, 1)[0]
    return line.strip()
