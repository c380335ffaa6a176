"""Options of a row, and which of them its gold answer is."""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from greater_fast.examples.loading.cells import as_list, is_missing, literal, text_of
from greater_fast.examples.loading.errors import bad_data
from greater_fast.wording import listed, quoted

_LETTERS = string.ascii_uppercase
_MARKED = re.compile(r"\(?([A-Za-z])\s?[).:]\s*(\S.*)", re.DOTALL)
_MARK_INSIDE = re.compile(r"(?:^|(?<=[\s,;]))\(?([A-Za-z])\s?\)\s*")
_LETTER = re.compile(r"\(?([A-Za-z])[).:]?")
_TEXT_KEYS, _LABEL_KEYS = ("text", "texts", "value", "content"), ("label", "labels", "key", "id")


@dataclass(frozen=True, slots=True)
class Options:
    """What a row has to choose from; `labels` are the data's own, "" where it has none."""

    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(
            f"({letter}) {text}" for letter, text in zip(_LETTERS, self.texts, strict=False)
        )


def read_options(value: object) -> Options | None:
    """The options in a cell, without marks such as "A)" in order; None where it holds no list.

    They are a list of texts or of objects, an object of labels and texts, an object of a letter
    each, or such a list as text.
    """
    if isinstance(value, str):
        value = _parsed(value.strip())
    value = as_list(value)
    if is_missing(value) or value == "":
        return Options(())
    labels: object = None
    if isinstance(value, Mapping):
        labels, value = _labels_and_texts(value)
    elif isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        labels = [_first(part, _LABEL_KEYS) for part in value]
        value = [_first(part, _TEXT_KEYS) if {*part} & {*_TEXT_KEYS} else part for part in value]
    value, labels = as_list(value), as_list(labels)
    if not isinstance(value, list):
        return None
    texts = [text_of(part) for part in value]
    if any(text is None for text in texts):
        return None
    plain = [text or "" for text in texts]
    marks = _marks(plain)
    named = [text_of(label) or "" for label in labels] if isinstance(labels, list) else []
    if marks == [*_LETTERS[: len(plain)]]:
        plain = [text[match.start(2) :] for text in plain if (match := _MARKED.fullmatch(text))]
    elif not named:
        named = marks
    return Options(tuple(plain), tuple(named if len(named) == len(plain) else []))


def letters_of(
    golds: Sequence[Sequence[str]], options: Sequence[Options], readings: Sequence[str], name: str
) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Each row's gold answers as letters of its options, and how they were read.

    They are read in one way in all rows, the first of the names in `readings` that fits: as the
    data's own labels, letters, texts, or numbers that count from 0 or 1. Others that would fit, and
    give other letters, are named behind it. Rows without options keep their answers.

    Raises:
        ValueError: there is no such way, or a row has more options than there are letters.
    """
    for number, row in enumerate(options, start=1):
        if len(row.texts) > len(_LETTERS):
            got = f"{len(row.texts)} options in row {number}"
            raise bad_data(name, got, f"at most {len(_LETTERS)}", "pass a template without them")
    fitting = {
        reading: letters
        for reading in readings
        if (letters := _read_all(golds, options, READINGS[reading])) is not None
    }
    if fitting:
        reading, letters = next(iter(fitting.items()))
        return letters, (reading, *(name for name, read in fitting.items() if read != letters))
    number, gold, row = _misfit(golds, options)
    raise bad_data(
        name,
        f"{quoted(gold)} as an answer of row {number}, whose options are {listed(row.texts)}",
        "in all rows the letter, the text or the number of an option",
        "correct that row, or pass a template without the options, as '{question}'",
    )


def _read_all(
    golds: Sequence[Sequence[str]],
    options: Sequence[Options],
    read: Callable[[str, Options], int | None],
) -> list[tuple[str, ...]] | None:
    """All rows' letters by one reading, None as soon as one does not fit."""
    letters: list[tuple[str, ...]] = []
    for gold, row in zip(golds, options, strict=True):
        if not row.texts:
            letters.append(tuple(gold))
            continue
        indices = dict.fromkeys(read(text, row) for text in gold)
        if None in indices:
            return None
        letters.append(tuple(_LETTERS[index] for index in indices if index is not None))
    return letters


def _misfit(golds: Sequence[Sequence[str]], options: Sequence[Options]) -> tuple[int, str, Options]:
    """The first row that no reading fits, else the first that is not read as most begin."""
    rows = [
        (number, text, row)
        for number, (gold, row) in enumerate(zip(golds, options, strict=True), start=1)
        for text in gold
        if row.texts
    ]
    readings = READINGS.values()
    for number, text, row in rows:
        if all(read(text, row) is None for read in readings):
            return number, text, row
    fitting = [read for read in readings if read(*rows[0][1:]) is not None]
    return next(row for row in rows if any(read(*row[1:]) is None for read in fitting))


def _by_label(gold: str, options: Options) -> int | None:
    return _index(gold.casefold(), [label.casefold() for label in options.labels])


def _by_letter(gold: str, options: Options) -> int | None:
    match = _LETTER.fullmatch(gold)
    marked = _MARKED.fullmatch(gold)
    if match is None and marked is not None:  # "(A) Paris"
        index = _LETTERS.index(marked[1].upper())
        return index if options.texts[index : index + 1] == (marked[2],) else None
    if match is None:
        return None
    index = _LETTERS.find(match[1].upper())
    return index if index < len(options.texts) else None


def _by_text(gold: str, options: Options) -> int | None:
    """The option of that text; one that differs in case or white space, where only one does."""
    if gold in options.texts:
        return options.texts.index(gold)
    wanted = " ".join(gold.casefold().split())
    folded = [" ".join(text.casefold().split()) for text in options.texts]
    return folded.index(wanted) if folded.count(wanted) == 1 else None


def _from(first: int) -> Callable[[str, Options], int | None]:
    def read(gold: str, options: Options) -> int | None:
        index = int(gold) - first if gold.isascii() and gold.isdigit() and len(gold) < 4 else -1
        return index if 0 <= index < len(options.texts) else None

    return read


def _by_words(gold: str, options: Options) -> int | None:
    """By label, letter or text, which may differ from row to row."""
    for read in (_by_label, _by_letter, _by_text):
        index = read(gold, options)
        if index is not None:
            return index
    return None


READINGS: dict[str, Callable[[str, Options], int | None]] = {
    "labels": _by_label,
    "letters": _by_letter,
    "texts": _by_text,
    "numbers from 0": _from(0),
    "numbers from 1": _from(1),
    "letters or texts": _by_words,
}

NUMBER_READINGS = ("numbers from 0", "numbers from 1", "texts")


def _index(wanted: str, among: Sequence[str]) -> int | None:
    return among.index(wanted) if wanted in among else None


def _parsed(text: str) -> object:
    """What a text lists as options: as JSON or Python writes it, or behind marks."""
    parsed = literal(text)
    if parsed is not text:
        return parsed
    marks = list(_MARK_INSIDE.finditer(text))
    letters = "".join(mark[1] for mark in marks).upper()
    if len(marks) > 1 and marks[0].start() == 0 and letters == _LETTERS[: len(letters)]:
        stops = [*(mark.start() for mark in marks[1:]), len(text)]
        return [text[m.end() : stop].strip(" ,;\n") for m, stop in zip(marks, stops, strict=True)]
    return text


def _labels_and_texts(value: Mapping[str, object]) -> tuple[object, object]:
    texts = _first(value, _TEXT_KEYS)
    if isinstance(as_list(texts), list):
        return _first(value, _LABEL_KEYS), texts
    if value and all(isinstance(score, int | float) for score in value.values()):
        return None, list(value)  # BIG-bench: a score an option
    given = {key: text for key, text in value.items() if not is_missing(text)}
    return list(given), list(given.values())


def _first(part: Mapping[str, object], keys: Sequence[str]) -> object:
    return next((part[key] for key in keys if key in part), None)


def _marks(texts: Sequence[str]) -> list[str]:
    """The letters that texts begin with, of "A)21", where they are the first ones, in any order."""
    matches = [_MARKED.fullmatch(text) for text in texts]
    letters = [match[1].upper() for match in matches if match]
    return letters if sorted(letters) == [*_LETTERS[: len(texts)]] else []


def check_readings(sets: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError where a set's options may be meant as another's: counted from 0, or 1."""
    for (name, readings), (other, others) in itertools.permutations(sets.items(), 2):
        if others and others[0] in readings[1:]:
            raise ValueError(
                f"the gold answers of {name} are read as {readings[0]}, though {others[0]} would "
                f"fit too, as which those of {other} are read: write them as letters in both"
            )
