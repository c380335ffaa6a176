r"""Where a solution holds its final answer: behind "####", in \boxed{}, or it is the answer."""

import re
from collections.abc import Mapping

_FINAL_ANSWER_MARK = "####"
_BRACES = re.compile(r"\\(?:boxed|f(?:rame)?box)\s*(?P<box>\{)|\\.|[{}]")
# A box without braces: "\boxed 2".
_BARE_BOX = re.compile(r"\\boxed\s*(-?\d+(?:[.,/]\d+)*)(?=[\s$.,;:)]|\Z)")
_CHOICE_LETTER = re.compile(r"\(\s*([A-Za-z])\s*\)")


def final_answer(text: str) -> str:
    r"""The answer of a solution, without the brackets of a choice letter.

    It is the last line from "####" on (GSM8K), or the line behind that where a last one repeats it
    ("The answer is: 7"), else what the last `\boxed{}` holds (MATH), else all of it; a whole answer
    "(A)" becomes "A".
    """
    answer = _marked(text)
    answer = _boxed(text) if answer is None else answer
    letter = _CHOICE_LETTER.fullmatch(answer)
    return letter[1] if letter else answer


def _marked(text: str) -> str | None:
    """The line behind the last mark; None without one, and where the mark begins a heading."""
    if _FINAL_ANSWER_MARK not in text:
        return None
    line, _, rest = text.rpartition(_FINAL_ANSWER_MARK)[2].strip().partition("\n")
    line, is_repeated = line.strip(), rest.rstrip(" .\n").endswith((f" {line}", f":{line}"))
    return line if is_repeated or not rest else None


def _boxed(text: str) -> str:
    r"""What the last whole `\boxed{}` holds, which may hold braces itself; all without a box."""
    opened: list[tuple[bool, int]] = []
    start, stop = 0, len(text)
    for mark in _BRACES.finditer(text):
        if mark["box"] or mark[0] == "{":  # \{ is a sign, no brace
            opened.append((bool(mark["box"]), mark.end()))
        elif mark[0] == "}" and opened:
            is_box, behind = opened.pop()
            if is_box and behind > start:
                start, stop = behind, mark.start()
    bare = None if start else _BARE_BOX.findall(text)
    return str(bare[-1]) if bare else text[start:stop].strip()


def best_scored(value: object) -> object:
    """The options that have the highest score (BIG-bench); anything else as it is."""
    if not isinstance(value, Mapping):
        return value
    scores = {key: score for key, score in value.items() if isinstance(score, int | float)}
    best = max(scores.values(), default=None)
    return [key for key, score in scores.items() if score == best]
