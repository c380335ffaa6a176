r"""The marks that are written around an answer, and how they are taken off.

Off go what leads up to an answer (": Paris", "= 42", "- yes", "Answer: 42"), what ends it
("Paris.", "yes!", "是。") and what encloses it: quotes of all scripts, "(A)", "$A$", "\[A\]",
"\boxed{A}", "\textbf{A}", "**A**", "`A`", "<answer>A</answer>".
"""

import re
import unicodedata
from collections.abc import Callable

FULL_STOPS = ".。｡।۔"
_LABEL = (
    r"(?:(?:therefore|thus|hence|so),?\s+)?(?:the\s+)?"
    r"(?:(?:(?:final|correct|right)\s+)?answer|letter\s+of\s+the\s+(?:correct|right)\s+choice)"
)
_LABELLED = rf"{_LABEL}(?:\s+is\b\s*[:：]?|\s*[:：])|\*\*{_LABEL}(?:\s*[:：]\*\*|\*\*\s*[:：])"
_ON_A_LINE = r"(?:\\[\[(]|\$\$?|\*\*|```\w*)[ \t]*(?=\n)"  # what opens an answer below it
# A dash in front of a number or a formula may be a sign: it stays, with or without a space behind.
_FORMULA = (
    r"[$€£]?\s?[\d.]|\\(?:[dt]?frac|sqrt|pi)|\((?![a-z]\))"
    r"|[a-z](?:\s*[-+*/^=_(]|\d)|[k-z](?!\w)"  # a letter up to j is a choice's
)
_LEADING = re.compile(
    rf"\s+|[-=]+>|[:：=＝→⇒]+|[-–](?=\s+(?!{_FORMULA})\S)|[—•*](?=\s+\S)|#+(?=\s+\S)"
    rf"|[.…]+(?=\s+\w)|{_LABELLED}|{_ON_A_LINE}",
    re.IGNORECASE,
)
# A gold answer may be "=SUM(A1)", "-> x" or "- x": only what is no part of any answer goes.
_LEADING_OF_GOLD = re.compile(rf"\s+|[:：]+(?=\s+\w)|{_LABELLED}", re.IGNORECASE)
# "5!" is a number of its own.
_ENDING = rf"\s{FULL_STOPS},;:…、"
_TRAILING = re.compile(rf"(?:[{_ENDING}]|!+(?![\d)\]}}!]))+")  # in a text read backwards
_FULL_STOP = re.compile(rf"(?<![\s{FULL_STOPS}])[{FULL_STOPS}]+$")  # "ls ." has none
_ABBREVIATION = re.compile(r"\.\w\.$")  # "p.m.", "U.S."
_MACRO = re.compile(
    r"\\(?:boxed|f(?:rame)?box|mbox|emph|underline|text[a-z]*|math[a-z]+|boldsymbol|bm|operatorname)"
    r"\s*\{(.*)\}",
    re.DOTALL,
)
_TAG = re.compile(
    r"<((?:final[_ -]?)?answer|ans|result|solution|output)>(.*)</\1>", re.DOTALL | re.IGNORECASE
)
_MOST_LAYERS = 40  # each is a pass through the text
_QUOTES = ('""', "''", "“”", "‘’", "„“", "«»", "‹›", "「」", "『』", "《》", "〈〉", "【】")
# Each takes one pair off a whole answer. What is inside may hold no such mark again, so that
# "(A) and (B)" and '"yes" or "no"' stay as they are.
_ENCLOSING = (
    re.compile(r"\$\$([^$]+)\$\$"),
    re.compile(r"\$([^$]+)\$"),
    re.compile(r"\\\[((?:(?!\\[\[\]]).)+)\\\]", re.DOTALL),
    re.compile(r"\\\(((?:(?!\\[()]).)+)\\\)", re.DOTALL),
    re.compile(r"\*\*\*([^*]+)\*\*\*"),
    re.compile(r"\*\*([^*]+)\*\*"),
    re.compile(r"\*([^*]+)\*"),
    re.compile(r"```(?:\w*\n)?([^`]+)```"),
    re.compile(r"`([^`]+)`"),
    re.compile(r"[(（]\s*([\w.+\u2212-]+)\s*[)）]"),
    *(re.compile(f"{pair[0]}([^{pair}]+){pair[1]}") for pair in _QUOTES),
)

_IN_ASCII = {
    **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)},  # full-width forms
    **dict.fromkeys(map(ord, "‘’‚‛"), "'"),
    **dict.fromkeys(map(ord, "“”„‟"), '"'),
    **dict.fromkeys(map(ord, "‐‑‒–−﹣"), "-"),
    ord("٫"): ".",
    ord("٬"): ",",
    **dict.fromkeys(map(ord, "\u200b\u200e\u200f\u2060\ufeff\u00ad"), None),  # not to be seen
    **dict.fromkeys(range(0x202A, 0x202F), None),  # nor are marks of direction
    **dict.fromkeys(range(0x2066, 0x206A), None),
}
_LATEX = (
    (re.compile(r"(?<!\\)\\+([%$&#_])"), r"\1"),
    (re.compile(r"(?<=\d)(?:\{,\}(?:\\!)?|,?\\!|\\[,;:])\s?(?=\d{3})"), ","),
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\frac(\d)(\d)(?!\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"(?<=\d)\s+(?=%)"), ""),
)


def without_lead(text: str, leading: re.Pattern[str] = _LEADING) -> str:
    """The text from the answer on: white space, line breaks and marks that lead up to it go."""
    start = 0
    while match := leading.match(text, start):
        start = match.end()
    return text[start:]


def peeled(text: str) -> str:
    """The answer without the marks around it; of a text that is not blank, something is left."""
    return _peeled(text.strip(), _LEADING, _without_trailing)


def asked_form(text: str) -> str:
    """A gold answer as a model is asked to write it: without what it would have no reason to write.

    Marks around it go, but "!" and the full stop of "3 p.m." stay; characters are composed (NFC).
    """
    text = unicodedata.normalize("NFC", text.strip())
    return _peeled(text, _LEADING_OF_GOLD, _without_full_stop)


def _peeled(text: str, leading: re.Pattern[str], without_end: Callable[[str], str]) -> str:
    for _ in range(_MOST_LAYERS):
        if (shorter := _without_layer(text, leading, without_end)) == text:
            break
        text = shorter
    return text


def _without_layer(text: str, leading: re.Pattern[str], without_end: Callable[[str], str]) -> str:
    """Take one layer off, unless nothing would be left."""
    inner = without_lead(text, leading) or text
    inner = without_end(inner) or inner
    return _opened(inner).strip() or inner


def _without_trailing(text: str) -> str:
    found = _TRAILING.match(text[::-1])  # forwards, each mark of a long row would be a start
    return text[: len(text) - found.end()] if found else text


def _without_full_stop(text: str) -> str:
    return text if _ABBREVIATION.search(text) else _FULL_STOP.sub("", text)


def _opened(text: str) -> str:
    """What stands inside the pair of marks that encloses the whole text, else the text."""
    macro = _MACRO.fullmatch(text)
    if macro and _is_balanced(macro[1]):
        return macro[1]
    tag = _TAG.fullmatch(text)
    if tag and f"<{tag[1]}>" not in tag[2]:
        return tag[2]
    for pair in _ENCLOSING:
        if match := pair.fullmatch(text):
            return match[1]
    return text


def _is_balanced(text: str) -> bool:
    """Whether no brace closes before it opens, and none stays open."""
    depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return depth == 0


def in_plain_characters(text: str) -> str:
    r"""Case and white space folded, one character for one meaning, LaTeX's escapes undone.

    Full-width forms, digits of all scripts, dashes and quotes become ASCII; accents are composed;
    "1{,}000" is "1,000", "50\%" is "50%".
    """
    text = text.translate(_IN_ASCII)
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())
    text = re.sub(r"\d", lambda digit: str(unicodedata.decimal(digit[0])), text)
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())
