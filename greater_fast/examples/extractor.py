"""The extractor: the text that, after the reasoning, makes the answer the very next tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from greater_fast.examples.answers import answers_match
from greater_fast.examples.cutting import cut_answer
from greater_fast.examples.golds import spellings
from greater_fast.examples.placeholders import (
    ANSWER,
    check_no_placeholder,
    has_placeholder,
    with_answer_place,
)
from greater_fast.model.text.scripts import space_before, space_behind
from greater_fast.wording import quoted

_LARGEST_CLOSED_SET = 12
_IN_A_SENTENCE = f"Therefore, the final answer is {ANSWER}."
# What encloses an answer, in order of preference: SmolLM2-135M closes a quote or a backtick
# that it finds open, and seldom a tag.
_ENCLOSED = (("$", "$"), ('"', '"'), ("`", "`"), ("<answer>", "</answer>"))
_NUM_NAMED = 3
_DERIVED = "derived"
_OPTION = re.compile(r"^[^\S\n]*(?:\(([A-Z])\)|([A-Z])[).:])\s+\S", re.MULTILINE)
_CLOSING = {"$": "$", '"': '"', "'": "'", "`": "`", "(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class Extractor:
    """A text such as "Therefore, the final answer is", and how an answer stands behind it.

    `separator` stands between text and answer, `closing` behind the answer and is scored with it,
    so that 18 is not 180. What comes `behind` that is not scored: it says which tokens a closing of
    white space is. `lead` joins the text to the reasoning in place of a space, and may be empty;
    where it is None, `joint` does so, if a thought was closed before it.
    """

    text: str
    separator: str
    closing: str
    origin: str
    lead: str | None = None
    joint: str = ""
    behind: str = ""

    @property
    def is_derived(self) -> bool:
        """Whether it was made for the answers, and not given."""
        return self.origin.startswith(_DERIVED)

    def in_place(self) -> str:
        """The text as it follows the reasoning; a space before it belongs to its first token."""
        lead = self.lead if self.lead is not None else self.joint or space_before(self.text)
        return f"{lead}{self.text}"

    def answer_in_place(self, answer: str) -> str:
        """The answer as it follows the extractor, with what closes it; no full stop comes twice."""
        closing = self.closing
        if closing.startswith(".") and answer.endswith("."):
            closing = closing[1:]
        return f"{self.separator}{answer}{closing}".rstrip(" ")

    def in_config(self) -> str:
        """The text that makes this extractor again."""
        text = f"{self.lead or ''}{self.text}{self.separator}"
        mark = _CLOSING.get(self.text[-1], "")
        if mark in ("}", "$") and self.closing == f"{self.separator}{mark}":
            return text  # "{{answer}}" and "${answer}" would be read as a template's placeholder
        return f"{text}{ANSWER}{self.closing}"

    def describe(self) -> str:
        """One line for a reader: the text, and where it comes from."""
        return f"extractor ({self.origin}): {self.in_config()!r}"

    def cut(self, generated: str) -> str:
        """The answer in a generated continuation."""
        return cut_answer(generated, self.closing)

    def reads_back(self, answer: str) -> bool:
        """Whether reading undoes writing: the answer as it is asked for is cut to an equal one."""
        return answers_match(self.cut(self.answer_in_place(answer)), answer)


def make_extractor(text: str, origin: str = "given") -> Extractor:
    """An extractor from its text.

    `{answer}` in the text stands for the answer, and what follows it closes the answer. Without it,
    a text that ends in an opening mark ("$", a quote, a bracket) has the answer closed by its
    counterpart, and white space behind the mark is repeated before that; a mark may also close what
    stands in the text, as in 'with "yes" or "no"'. White space at the beginning, and before
    `{answer}`, is kept where a line breaks in it, and is else a space at most; that at the end of a
    text without `{answer}` is a space.

    Raises:
        ValueError: there is no text before the answer, or the answer has two places.
    """
    before, found, closing = text.partition(ANSWER)
    stripped = before.strip()
    if not stripped:
        raise ValueError(
            "the extractor is empty: give a text that asks for the answer, such as "
            "'Therefore, the final answer is {answer}.', or leave it out to have one derived"
        )
    if ANSWER in closing:
        raise ValueError(
            f"the extractor {quoted(text)} has more than one place for the answer: the model "
            "writes it once, so write {answer} once"
        )
    space = before[: len(before) - len(before.lstrip())]
    lead = space if "\n" in space else None
    behind = before[len(before.rstrip()) :]
    if found:
        separator = behind if "\n" in behind else behind and " "
        return Extractor(stripped, separator, closing.rstrip(), origin, lead)
    mark = _CLOSING.get(stripped[-1], "") if _opens(stripped) else ""
    joined = mark or not space_behind(stripped)
    separator = "" if joined and not behind else " "
    return Extractor(stripped, separator, separator + mark if mark else "", origin, lead)


def _opens(text: str) -> bool:
    """Whether the mark at the end of a text opens; one that is its own counterpart may close.

    It closes behind a word or the end of a sentence, where it is not the first, third, ... of its
    kind: as in '"yes" or "no"' and "about $5$".
    """
    mark = text[-1]
    is_behind_text = re.search(r"[\w.!?)\]}%]$", text[:-1]) is not None
    return _CLOSING.get(mark) != mark or not is_behind_text or text.count(mark) % 2 == 1


def given_extractor(text: str) -> Extractor:
    """The extractor that a user gives, with placeholders of other spellings understood.

    Raises:
        ValueError: as `make_extractor`; there is a placeholder for anything but the answer.
    """
    text = with_answer_place(text)
    check_no_placeholder("extractor", text, "only {answer} has a place in an extractor")
    return make_extractor(text)


def option_letters(questions: Iterable[str]) -> tuple[str, ...]:
    """Letters of the options that stand in questions, a line each, as "(A) ..." from A on."""
    most = 0
    for question in questions:
        found = "".join(first or second for first, second in _OPTION.findall(question))
        while most < 26 and found.startswith(ascii_uppercase[: most + 1]):
            most += 1
    return tuple(ascii_uppercase[:most]) if most > 1 else ()


def derive_extractor(
    answers: Sequence[str], others: Sequence[str] = (), letters: Sequence[str] = ()
) -> Extractor:
    """An extractor for the kind of answers that the training rows have; `origin` names it.

    A closed set is listed in the form in which the answer is to be given: small models copy it.
    Of choices, `letters` are listed too: the right one of another row may be one that no answer is.
    Other answers stand in a sentence of their own, which small models close with a full stop; where
    one of these answers, or of `others`, could not be told from what closes it, in quotes or a tag.

    Raises:
        ValueError: no way of closing an answer lets all be read back.
    """
    distinct = sorted(spellings(answers).values())
    golds = list(dict.fromkeys((*distinct, *answers, *others)))
    is_closed = len(distinct) <= min(_LARGEST_CLOSED_SET, len(answers) // 2)
    if all(re.fullmatch("[A-Z]", a) for a in distinct):
        distinct = sorted({*distinct, *letters})
        asked = _listing(distinct, "the letter of the right choice")
        origin = f"choice letters {', '.join(distinct)}"
    elif all(re.fullmatch(r"[-+]?\$?\d[\d,]*(\.\d+)?", a) for a in distinct):
        asked, origin = [_IN_A_SENTENCE, *_enclosures(golds)], "numbers"
    elif is_closed and not has_placeholder("".join(distinct)):
        asked = _listing(distinct, "the final answer")
        origin = f"one of {', '.join(distinct)}"
    else:
        asked, origin = [_IN_A_SENTENCE, *_enclosures(golds)], "short text"
    for text in asked:
        extractor = make_extractor(text, f"{_DERIVED}: {origin}")
        if all(map(extractor.reads_back, golds)):
            return extractor
    raise ValueError(
        f"no extractor can be derived: {_unread(extractor, golds)} as whole answers, whatever "
        "encloses them; correct these rows, or give an extractor that closes the answer with a "
        "text that none of them holds"
    )


def check_reads_back(extractor: Extractor, golds: Iterable[str]) -> None:
    """Raise ValueError where a gold answer would not be read as itself behind this extractor."""
    unread = _unread(extractor, golds)
    if unread:
        ending = extractor.closing.strip() or "the line's end"
        raise ValueError(
            f"the extractor {quoted(extractor.in_config())} ends an answer at {quoted(ending)}, so "
            f"{unread} would never be right: end it with a text that no answer holds, as in "
            "'... is <answer> {answer} </answer>', or leave it out to have one derived"
        )


def _listing(distinct: Sequence[str], what: str) -> list[str]:
    """Texts that list a closed set, in each way of enclosing an answer."""
    texts = []
    for mark, closing in _ENCLOSED:
        listed = " or ".join(f"{mark} {answer} {closing}" for answer in distinct)
        texts.append(f"Therefore, {what}, {listed}, is {mark} {ANSWER} {closing}")
    return texts


def _enclosures(golds: Sequence[str]) -> list[str]:
    """Texts that open a mark, right before the answer where its tokens cannot merge with that."""
    space = "" if all(re.match(r"\w", gold) for gold in golds) else " "
    return [
        f"Therefore, the final answer is {mark}{gap}{ANSWER}{gap}{closing}"
        for mark, closing in _ENCLOSED[1:]
        for gap in [" " if len(mark) > 1 else space]
    ]


def _unread(extractor: Extractor, golds: Iterable[str]) -> str:
    """The golds that are not read back, some of them named; "" if all are."""
    unread = [gold for gold in dict.fromkeys(golds) if not extractor.reads_back(gold)]
    named = ", ".join(map(quoted, unread[:_NUM_NAMED]))
    return named and f"{len(unread)} gold answers ({named}{', ...' * (len(unread) > _NUM_NAMED)})"
