"""When an answer is right: comparison after normalisation, and letters read out of choices."""

import re
from collections.abc import Iterable
from decimal import Decimal

from greater_fast.examples.marks import in_plain_characters, peeled

_CURRENCY = r"[$\u20ac\u00a3]\s?"
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
_NUMBER = re.compile(rf"(?P<sign>[-+]?|[-+]{_CURRENCY}|{_CURRENCY}[-+]?)(?P<digits>{_DIGITS})")

_CHOICE = re.compile(
    r"(?:(?:the )?(?:(?:correct|right|best|final) )?(?:option|choice|answer|letter)(?: is)?:? )?"
    r"(?:\((?P<round>[a-z])\)|\[(?P<square>[a-z])\]|(?P<alone>[a-z])(?=[).:!、]|$)"
    r"(?![).:!]+ [a-j]$))[).:!]*"  # "A: B" may be a question's and answer's
    r"(?:(?: |(?<=[)\]])|(?=[^\x00-\x7f])、?(?![a-z]\b))(?P<rest>.+))?"
)
_BOLD = re.compile(r"\*\*|\\(?:text|math)[a-z]*\{([^{}]*)\}")
# Behind a choice's letter, its own text is no matter; another choice, or a denial, is.
_NOT_ITS_TEXT = re.compile(
    r"(?:or|and|nor|but|is not|isn't|is (?:incorrect|wrong|false))\b"
    r"|(?:not|(?:no|wait),)(?: it(?: is|'s))? \(?[a-j]\)?$"  # "(C) Not enough info" is a choice
    r"|[/&+,;、和或与及]|.*\banswer is [a-j]$"
    r"|.*(?<![a-z0-9_])(?:\([a-z]\)|(?:[a-z][):]|[a-e]\.)(?= |$))"  # "John F. Kennedy" is text
)


def normalise_answer(text: str) -> str:
    r"""The form in which answers are compared.

    Case, white space, width and accents' composition are folded; the marks around an answer are
    taken off (`marks.py`); numbers lose thousands commas, a currency sign and idle zeros, exactly
    ("$1,000.0" is "1000"). "1/2", "50%", "1e3", "18 dollars", "- 42" are text. Normalising twice
    changes nothing more.
    """
    text = peeled(in_plain_characters(text))
    return _number(text) or text


def answers_match(predicted: str, gold: str) -> bool:
    """Whether an answer equals the gold one after normalisation; an empty one does not.

    Where the gold one is a letter, a choice that begins with it does too: "(A) Paris", "option A".
    """
    written, wanted = normalise_answer(predicted), normalise_answer(gold)
    if not written:
        return False
    return written == wanted or (len(wanted) == 1 and chosen_letter(written) == wanted)


def matching_gold(predicted: str, golds: Iterable[str]) -> str | None:
    """The first gold answer that a predicted one equals, None where it is wrong."""
    return next((gold for gold in golds if answers_match(predicted, gold)), None)


def compared_form(text: str) -> str:
    """The text by which whoever compares texts alone finds `answers_match`.

    That of a predicted answer equals that of a gold one where the two match, unless the gold one is
    a longer text that reads as a choice ("A) Paris"); an empty one is no gold one's.
    """
    written = normalise_answer(text)
    return chosen_letter(written) or written


def chosen_letter(text: str) -> str | None:
    """The letter of "(a) paris", "a) paris", "option a", in the form that answers are compared in.

    "" where another choice stands beside it, or it is denied; None for a text that is no choice.
    """
    match = _CHOICE.fullmatch(_BOLD.sub(lambda bold: bold[1] or "", text))
    if match is None:
        return None
    if match["rest"] and _NOT_ITS_TEXT.match(match["rest"]):
        return ""
    return match["round"] or match["square"] or match["alone"]


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
    return f"-{plain}" if "-" in match["sign"] else plain
