"""When two answers are the same: comparison after normalisation."""

import re
from decimal import Decimal

# Each takes one pair of marks off a whole answer. What is inside may hold no such mark again, so
# that "(A) and (B)" and '"yes" or "no"' stay as they are.
_WRAPPERS = (
    re.compile(r"\$([^$]+)\$"),
    re.compile(r"\\\((.+)\\\)"),
    re.compile(r"\\(?:boxed|text|mathrm|mathbf)\s*\{([^{}]*(?:\{[^{}]+\})?[^{}]*)\}"),
    re.compile(r"\(\s*([\w.+\u2212-]+)\s*\)"),
    re.compile(r'"([^"]+)"'),
    re.compile(r"'([^']+)'"),
    re.compile(r"`([^`]+)`"),
    re.compile("\u201c([^\u201c\u201d]+)\u201d"),
    re.compile("\u2018([^\u2018\u2019]+)\u2019"),
)
_SIGN = r"[-+\u2212]"
_CURRENCY = r"\\?[$\u20ac\u00a3]\s?"
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
_NUMBER = re.compile(
    rf"(?P<sign>{_SIGN}?|{_SIGN}{_CURRENCY}|{_CURRENCY}{_SIGN}?)(?P<digits>{_DIGITS})"
)


def normalise_answer(text: str) -> str:
    r"""The form in which answers are compared.

    Case and white space are folded; trailing full stops, surrounding quotes, and the marks of
    "(A)", "$A$" and "\boxed{A}" are taken off; numbers lose thousands commas, a currency sign and
    idle zeros, exactly ("$1,000.0" is "1000"). "1/2", "50%", "1e3", "nan" and "inf" are text.
    Normalising twice changes nothing more.
    """
    text = " ".join(text.casefold().split())
    while (shorter := _unwrapped(text)) != text:
        text = shorter
    return _number(text) or text


def answers_match(predicted: str, gold: str) -> bool:
    """Whether a generated answer equals the gold one after normalisation; an empty one does not."""
    normalised = normalise_answer(predicted)
    return bool(normalised) and normalised == normalise_answer(gold)


def _unwrapped(text: str) -> str:
    """Take one layer off, unless nothing would be left."""
    bare = text.rstrip(". ")
    for wrapper in _WRAPPERS:
        match = wrapper.fullmatch(bare)
        if match:
            bare = match[1].strip()
            break
    return bare or text


def _number(text: str) -> str | None:
    """The shortest plain decimal notation of a number, None for anything else."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    value = Decimal(match["digits"].replace(",", ""))
    if value == 0:
        return "0"
    plain = format(value, "f")
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    is_negative = "-" in match["sign"] or "\u2212" in match["sign"]
    return f"-{plain}" if is_negative else plain
