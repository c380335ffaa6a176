"""What follows the reasoning, as ids: the extractor, equal on all rows, and each row's answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from greater_fast.config import Config
from greater_fast.examples.data import Example
from greater_fast.examples.extractor import Extractor
from greater_fast.examples.thinking import open_thought
from greater_fast.model.lm import LM
from greater_fast.model.text.vocabulary import Vocabulary
from greater_fast.wording import quoted


@dataclass(frozen=True, slots=True)
class Targets:
    """Ids of the extractor, and of each row's answer; `end_ids` end a reasoning before them.

    `extractor` is how it follows the reasoning of this model.
    """

    extractor: Extractor
    extractor_ids: tuple[int, ...]
    answer_ids: tuple[tuple[int, ...], ...]
    end_ids: frozenset[int]


def lay_out_targets(
    lm: LM, examples: Sequence[Example], extractor: Extractor, config: Config
) -> Targets:
    """Ids of extractor and answers; an open thought is closed first.

    Raises:
        ValueError: the extractor's ids depend on the answer, or no token is left for an answer.
    """
    thought = open_thought(lm, config)
    extractor = thought.closed_before(extractor)
    ids = _extractor_ids(lm.vocabulary, extractor)
    return Targets(
        extractor=extractor,
        extractor_ids=(*thought.closing_ids, *ids),
        answer_ids=tuple(_answer_ids(lm.vocabulary, extractor, ids, e) for e in examples),
        end_ids=thought.end_ids,
    )


def _extractor_ids(vocabulary: Vocabulary, extractor: Extractor) -> tuple[int, ...]:
    """Ids of the extractor; with its separator where a line break is one token with its end."""
    text, separator = extractor.in_place(), extractor.separator
    ids, separated = vocabulary.ids(text), vocabulary.ids(text + separator)
    merges = "\n" in separator and separated[: len(ids)] != ids
    return separated if merges else ids


def _answer_ids(
    vocabulary: Vocabulary, extractor: Extractor, extractor_ids: tuple[int, ...], example: Example
) -> tuple[int, ...]:
    """Ids of the answer behind the extractor, tokenised as one string.

    Raises:
        ValueError: the extractor's ids depend on the answer, or no token is left for the answer.
    """
    text = extractor.in_place() + extractor.answer_in_place(example.answer)
    ids = vocabulary.ids(text, extractor.behind)
    start = len(extractor_ids)
    if ids[:start] != extractor_ids:
        raise ValueError(
            f"the tokenizer merges the end of the extractor {quoted(extractor.text)} with the "
            f"answer {quoted(example.answer)}: end the extractor with a word, or with a space "
            "behind its mark"
        )
    if len(ids) == start:
        raise ValueError(
            f"the extractor {quoted(extractor.text)} leaves no token for the answer "
            f"{quoted(example.answer)}"
        )
    return ids[start:]
