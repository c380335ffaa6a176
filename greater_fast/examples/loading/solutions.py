r"""Where a solution holds its final answer: behind "####", in \boxed{}, or it is the answer."""

import re
from collections.abc import Mapping

_FINAL_ANSWER_MARK = "####"
_BRACES = re.compile(r"\\f?boxed\s*\{|\\.|[{}]")
_CHOICE_LETTER = re.compile(r"\(\s*([A-Za-z])\s*\)")


def final_answer(text: str) -> str:
    r"""The answer of a solution, without the brackets of a choice letter.

    It is the last line from "####" on (GSM8K), else what the last `\boxed{}` holds (MATH), else all
    of it; a whole answer "(A)" becomes "A".
    """
    _, mark, behind = text.rpartition(_FINAL_ANSWER_MARK)
    is_marked = bool(mark) and "\n" not in behind.strip()  # else it begins a heading
    text = behind.strip() if is_marked else _boxed(text)
    letter = _CHOICE_LETTER.fullmatch(text)
    return letter[1] if letter else text


def _boxed(text: str) -> str:
    r"""What the last whole `\boxed{}` holds, which may hold braces itself; the text without one."""
    opened: list[tuple[bool, int]] = []
    start, stop = 0, len(text)
    for mark in _BRACES.finditer(text):
        if mark[0].endswith("{") and len(mark[0]) != 2:  # \{ is a sign, no brace
            opened.append((len(mark[0]) > 1, mark.end()))
        elif mark[0] == "}" and opened:
            is_box, behind = opened.pop()
            if is_box and behind > start:
                start, stop = behind, mark.start()
    return text[start:stop].strip()


def best_scored(value: object) -> object:
    """The options that have the highest score (BIG-bench); anything else as it is."""
    if not isinstance(value, Mapping):
        return value
    scores = {key: score for key, score in value.items() if isinstance(score, int | float)}
    best = max(scores.values(), default=None)
    return [key for key, score in scores.items() if score == best]
