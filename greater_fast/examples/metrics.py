"""What a generated answer is worth, from 0 to 1: metrics by name, and those of a user's own.

A named one compares with each gold answer of a row and takes the highest value: any of them counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import wraps

from greater_fast.examples.answers import answers_match, chosen_letter, normalise_answer
from greater_fast.examples.data import Example
from greater_fast.examples.marks import in_plain_characters
from greater_fast.examples.rendering import name_of
from greater_fast.model.byte_sizes import callers_errors
from greater_fast.model.text.scripts import WORD_APART, written_together
from greater_fast.wording import quoted

# (predicted answer, its example) -> what the answer is worth, in [0, 1]
Metric = Callable[[str, Example], float]

_PERIOD = r"[.,]\s?\\(?:overline|bar|dot|overset)"  # "0.\overline{3}"
# Numerals that make another number of the one before; 千米, 百帕 and 兆瓦 are units.
_LARGE = r"\s?(?:[十万萬億亿]|百(?![米帕])|千(?![米克瓦卡焦帕伏赫])|兆(?![瓦字赫比]))"
_ON_THE_LINE = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_IN_GROUPS = r"(?=\d{3}(?!\d)|\d+\s?/)"  # behind digits and a space: "10 000", "1 1/2"
_ARGUMENT = r"\{(?:[^{}]|\{[^{}]*\})*\}"
_TIMES = r"(?:\\times|\\cdot|[×·*x])"
# One way of writing for each meaning, in this order.
_PLAIN_NUMBERS = (
    (re.compile(r"\^(?:\{\\circ\}|\\circ)"), "°"),
    (re.compile(r"(?<=\d)\*\*(?=[-+]?\d)"), "^"),
    (re.compile("[⁺⁻]?[⁰¹²³⁴-⁹]+"), lambda exponent: "^" + exponent[0].translate(_ON_THE_LINE)),
    (re.compile(r"(?<=\d)'(?=\d{3}(?!\d))"), ","),
    (re.compile(r"(?<![\w-])(?:negative|minus) (?=[$€£]?[\d.])"), "-"),
    (
        re.compile(rf"(?<=\d)\s?{_TIMES}\s?10\s?\^\s?(?:\{{\s?([-+]?\d+)\s?\}}|([-+]?\d+))"),
        r"e\1\2",
    ),
    # What is raised to a power, or stands beside a root, is no number; nor is what is in there.
    (re.compile(rf"\^\s?(?:{_ARGUMENT}|\([^()]*\)|[-+]?[\d.]*\d)"), "^"),
    (re.compile(rf"(?:\\?sqrt(?:\[[^\]]*\])?|√)\s?(?:{_ARGUMENT}|\([^()]*\)|[\d.]*\d)?"), "√"),
    (re.compile(r"\\pi(?![a-z])"), "π"),
    (re.compile(r"(?<=\d)(?=\\frac)"), " "),  # "1\frac{1}{2}" is "1 1/2"
    (re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}"), r"\1/\2"),
)
# A sign touches the number or its currency sign, or begins the text; behind a bracket it is a dash.
# What goes on like a date, a time, a range, a version, a power or a decimal comma is no number.
_NUMBER = re.compile(
    rf"(?<!{WORD_APART})(?<![./^√])(?<!\d[,:'-])(?<!\d {_IN_GROUPS})(?<!\d \d{{3}} )"
    r"(?P<sign>(?<![)\]])[-+]|^ ?- )?[$€£]?(?P<inner_sign>-)?"
    rf"(?P<top>{_DIGITS})"
    rf"(?:e(?P<power>[-+]?\d{{1,3}})(?!{WORD_APART})|\s?/\s?(?P<bottom>-?(?:{_DIGITS})))?"
    rf"(?!\d|[.,/:'-]\d|{_PERIOD}|e[-+]?\d|{_LARGE}|\s?\^|\s?(?:{_TIMES}\s?)?[√π]| {_IN_GROUPS})"
)
_THOUSANDS = re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?!\d)")  # no year before a number
_IDLE_ZEROS = re.compile(r"(?<![\w.])(\d*)(?:(?<=\d)\.0+|(\.\d*[1-9])0+)(?!\d|[.,]\d)")
_CANNOT = r"(?:can(?:not|'t| not)|could(?:n't| not))"
_FALSE = r"(?:wrong|incorrect|false|untrue|impossible|invalid|excluded|eliminated|ruled out)"
# What denies the letter in front: "is wrong", ", which isn't right", "can't be the answer".
_DENIES = (
    r"(?:is|was|would|must)(?:n't| not(?! only)| never| no(?! doubt))\b"
    rf"|(?:is|was|would be|must be) (?:(?:\w+ly|the|an?|just|also) )*{_FALSE}\b"
    rf"|{_CANNOT} be (?:right|correct|true|it|the|an?)\b"
)
_MENTIONED = re.compile(
    r"(?<!not )(?:[(\[]([a-z])[)\]]|\b(?:option|choice|answer|letter)(?: is)?:? ([a-z])"
    rf"(?=[\s)]*(?:[.,;:!?]|$)| (?:because|since|as|is)\b))(?!,? (?:which )?(?:{_DENIES}))"
)
_AT_THE_START = re.compile(r"[a-z](?=[,;] )|[b-hj](?= )")  # "a" and "I" are words too
_ALONE = re.compile(r"\b[b-hj]\b")
_DENIED = re.compile(  # "B, not A", "not (A) but (B)"
    r"(?:^|[,;]? )(?:(?:and |but )?not|rather than|instead of) (?:option |choice |answer )?"
    r"(?:\([a-j]\)|\[[a-j]\]|[a-j])(?:,? but(?= )|(?=\s*(?:[.,;:!?]|$)))"
)
# "A: incorrect" and "A is wrong" deny A, unless that is what the option says. So does "A cannot",
# but "(A) cannot be known" is an option's text.
_JUDGED = re.compile(
    r"[(\[*]*(?P<letter>[a-z])(?P<marked>[)\].:!*]+)?,? (?:which )?(?P<how>"
    rf"(?:incorrect|wrong|false|not (?:correct|right|true))(?=[.!]*$)|{_DENIES}"
    rf"|(?(marked)(?!)|{_CANNOT})\b)"
)


def _of_any_gold(compare: Callable[[str, str], float]) -> Metric:
    """A metric from the comparison of one prediction with one gold answer."""

    @wraps(compare)
    def metric(predicted: str, example: Example) -> float:
        return max(float(compare(predicted, gold)) for gold in example.answers)

    return metric


@_of_any_gold
def exact(predicted: str, gold: str) -> float:
    """1 where both are equal as evaluation compares answers: see `answers_match`."""
    return answers_match(predicted, gold)


@_of_any_gold
def numeric(predicted: str, gold: str) -> float:
    r"""1 where both have the same number, whatever else they say: "about $1,000 a year" is 1000.

    It is the first number of the text, or the first behind its last equals sign ("3 x 6 = 18").
    Fractions and powers of ten are read ("1/2" is 0.5, "1.5e3" and "1.5 x 10^3" are 1500), "minus"
    and "negative" in front are signs, and equality is exact. Units count for nothing, and a percent
    sign is one: "50%" is 50, not 0.5. Digits that are joined by dashes or colons ("2024-01-02",
    "3-4", "12:30", "555-1234") are no number, nor are groups with a space between ("10 000",
    "1 1/2"), what is raised to a power ("2^{10}"), a root or what it is multiplied by
    ("2\sqrt{3}").
    """
    number = _number(predicted)
    return number is not None and number == _number(gold)


@_of_any_gold
def contains(predicted: str, gold: str) -> float:
    """1 where the gold answer stands in the prediction as words of its own, or is `exact`.

    Case, width, dashes, thousands commas and idle zeros are no matter. 18 is not in "180", "18.5",
    "-18" or "18:30", nor "art" in "start", nor 18 in "18万"; in scripts without spaces, such as
    Chinese, no words are told apart, but for numbers and words of other scripts among them.
    """
    text = _with_short_numbers(in_plain_characters(predicted))
    forms = {normalise_answer(gold), in_plain_characters(gold).strip()}  # "0" and "00"
    return answers_match(predicted, gold) or any(
        _stands_in(text, _with_short_numbers(form)) for form in forms if form
    )


def choice(predicted: str, example: Example) -> float:
    """1 where both choose the same letter: "(B)", "b.", "B) Paris", "I think that (B) is right".

    Letters that are denied do not count: "B, not A" is B. A prediction that names several others,
    or none, chooses none. "A: incorrect", "A is wrong" and "A cannot be right" deny A, unless the
    question has an option of that text.
    """
    letter = _letter(predicted, example.question)
    golds = (_letter(gold, example.question) for gold in example.answers)
    return float(letter is not None and letter in golds)


METRICS: dict[str, Metric] = {
    metric.__name__: metric for metric in (exact, numeric, contains, choice)
}


def name_of_metric(metric: Metric | None) -> str | None:
    """A metric's name for a reader; None for none."""
    return None if metric is None else str(getattr(metric, "__name__", type(metric).__name__))


def named_metric(name: str | None, examples: Sequence[Example]) -> Metric | None:
    """The metric of that name, for these rows; None for no name.

    Raises:
        ValueError: it is not for such answers: a gold one of them would not be right itself.
    """
    if name is None:
        return None
    metric = METRICS[name]
    golds = [gold.strip() for example in examples for gold in example.answers]
    if name == "contains" and all(len(g) == 1 and g.isascii() and g.isalpha() for g in golds):
        raise ValueError(
            f'metric: contains is not for letters alone, such as {quoted(golds[0])}: "a" and "I" '
            "stand in many texts as words; use choice"
        )
    for row, example in enumerate(examples):
        if not metric(example.answer, example):
            raise ValueError(
                f"metric: {name} is not for answers such as {quoted(example.answer)}, the gold one "
                f"of {name_of(examples, row)}, which it would not count as right: use another one"
            )
    return metric


def measured_value(metric: Metric, predicted: str, example: Example, row: str) -> float:
    """What a metric, called once, gives for an answer; True and False are 1 and 0.

    It is given the row's gold answers as the data has them.

    Raises:
        ValueError: it gives no number, or one that is not from 0 to 1; names the row.
        Exception: whatever the metric raises, with the row in a note.
    """
    try:
        with callers_errors():
            given = metric(predicted, example.as_given)
    except Exception as error:
        error.add_note(f"raised by the metric {name_of_metric(metric)} for {row}")
        raise
    value = _as_number(given)
    if value is None or not 0 <= value <= 1:  # NaN is neither
        raise ValueError(
            f"metric: {name_of_metric(metric)} gave {quoted(given)} for {row} and the answer "
            f"{quoted(predicted)}, expected a number from 0 to 1"
        )
    return value


def _as_number(given: object) -> float | None:
    """A number of any library as a float; None for texts, arrays and whatever else is none."""
    if isinstance(given, str | bytes | bytearray) or getattr(given, "ndim", 0) != 0:
        return None
    try:
        return float(given)  # type: ignore[arg-type]
    except Exception:  # of a class of the user's own
        return None


def _number(text: str) -> Fraction | None:
    text = in_plain_characters(text)
    for pattern, replacement in _PLAIN_NUMBERS:
        text = pattern.sub(replacement, text)
    found = map(_NUMBER.search, reversed(text.split("=")))
    match = next(filter(None, found), None)
    if match is None:
        return None
    value = _exactly(match["top"]) * Fraction(10) ** int(match["power"] or 0)
    if match["bottom"]:
        divisor = _exactly(match["bottom"])
        if not divisor:
            return None
        value /= divisor
    return -value if "-" in f"{match['sign']}{match['inner_sign']}" else value


def _exactly(digits: str) -> Fraction:
    return Fraction(Decimal(digits.replace(",", "")))  # however many there are


def _with_short_numbers(text: str) -> str:
    joined = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), text)
    return _IDLE_ZEROS.sub(r"\1\2", joined)


def _stands_in(text: str, wanted: str) -> bool:
    before, after = _boundary(wanted[0], before=True), _boundary(wanted[-1], before=False)
    if re.match(r"[-.]+\d", wanted):  # in "10-5" and "2.5" there is neither -5 nor .5
        before = rf"(?<!{WORD_APART})(?<!\.)"
    return re.search(f"{before}{re.escape(wanted)}{after}", text) is not None


def _boundary(edge: str, *, before: bool) -> str:
    """What may not stand beside a gold answer that begins, or ends, with this character."""
    if not re.match(r"\w", edge) or written_together(edge):
        return ""
    if before:
        return rf"(?<!{WORD_APART})" + (r"(?<![.-])(?<!\d[,:/])" if edge.isdigit() else "")
    return rf"(?!{WORD_APART}" + (rf"|{_LARGE}|[.,:/-]\d)" if edge.isdigit() else ")")


def _letter(text: str, question: str) -> str | None:
    """The one letter that a text chooses; None for none, or several."""
    plain = _DENIED.sub("", in_plain_characters(text))
    normal = normalise_answer(plain)
    judged = _JUDGED.match(normal)
    if judged and not _is_option(judged["letter"], judged["how"], question):
        return None
    letter = chosen_letter(normal)
    if letter is None:
        named = {first or second for first, second in _MENTIONED.findall(plain)}
        if start := _AT_THE_START.match(plain):
            named |= {start[0], *_ALONE.findall(plain)}
        letter = named.pop() if len(named) == 1 else None
    return letter or None


def _is_option(letter: str, text: str, question: str) -> bool:
    """Whether a question has an option with that letter and text: "(A) incorrect"."""
    option = rf"(?<!\w){letter}[).:\]]+\s*{text}\b"
    return re.search(option, in_plain_characters(question)) is not None
