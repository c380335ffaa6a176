"""Gold answers in the form that is asked for: the one spelling that a search scores."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from greater_fast.examples.answers import normalise_answer
from greater_fast.examples.data import Example
from greater_fast.examples.marks import asked_form, in_plain_characters
from greater_fast.wording import quoted

# A plus sign that says nothing, and one or two zeros of a fraction, as pandas writes whole numbers
# and people prices; "12.000" may be 12 thousand.
_IDLE_NUMBER = re.compile(r"\+?(-?[\d,]*\d)(?:\.0{0,2})?")
_OF_FIXED_WIDTH = re.compile(r"-?0\d+")  # "0011" is a code: equal to 11, and not asked for so
_SPREADSHEETS = {"TRUE": "True", "FALSE": "False"}  # where nobody chose these capitals
_NUM_NAMED = 3


def spelling(gold: str) -> str:
    """One gold answer as it is asked for: marks around it off, whole floats as whole numbers."""
    text = asked_form(gold)
    number = _IDLE_NUMBER.fullmatch(in_plain_characters(text))
    return number[1] if number else _SPREADSHEETS.get(text, text)


def spellings(golds: Iterable[str]) -> dict[str, str]:
    """One spelling of all golds that are equal: the commonest, of equals the first.

    Digits with zeros before them have a spelling of their own. What `asked_for` reads, in the order
    of first appearance.
    """
    counts: dict[str, Counter[str]] = {}
    for gold in golds:
        counts.setdefault(_key(gold), Counter())[spelling(gold)] += 1
    return {key: written.most_common(1)[0][0] for key, written in counts.items()}


def asked_for(gold: str, spelled: Mapping[str, str]) -> str:
    """A gold answer as it is asked for, where golds have these `spellings`."""
    return spelled.get(_key(gold)) or spelling(gold)


def _key(gold: str) -> str:
    own = spelling(gold)
    return own if _OF_FIXED_WIDTH.fullmatch(own) else normalise_answer(gold)


def in_one_form(examples: Sequence[Example], spelled: Mapping[str, str]) -> tuple[Example, ...]:
    """The examples with their golds as they are asked for; `spelled` is what `spellings` gave.

    They keep those that the data has, for metrics.
    """
    return tuple(_in_one_form(example, spelled) for example in examples)


def describe_changes(before: Sequence[Example], after: Sequence[Example]) -> tuple[str, ...]:
    """A line that names some of the golds that are asked for in another form; none if none are."""
    changed = {
        old.answer: new.answer
        for old, new in zip(before, after, strict=True)
        if old.answer != new.answer
    }
    if not changed:
        return ()
    named = ", ".join(
        f"{quoted(old)} as {quoted(new)}" for old, new in list(changed.items())[:_NUM_NAMED]
    )
    more = ", ..." if len(changed) > _NUM_NAMED else ""
    return (f"answers in one form: {named}{more}",)


def _in_one_form(example: Example, spelled: Mapping[str, str]) -> Example:
    first, *others = dict.fromkeys(asked_for(gold, spelled) for gold in example.answers)
    given = example.as_given.answers
    return replace(
        example,
        answer=first,
        other_answers=tuple(others),
        answers_given=() if given == (first, *others) else given,
    )
