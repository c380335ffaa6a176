"""Several models in the place of one: which go together, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from greater_fast.examples.layout import Layouts
from greater_fast.examples.rendering import place_of
from greater_fast.model.lm import LM
from greater_fast.ranks import Ranks
from greater_fast.wording import listed, numbered, quoted

_ALONE = "optimise for models of one family, or for each alone"


def as_models(model: Any, ranks: Ranks) -> list[Any]:
    """What `load_lm` takes, for each model: a list is of several, anything else is one.

    Raises:
        ValueError: the list is empty, or there are several processes for several models.
    """
    if not isinstance(model, list):
        return [model]
    if not model:
        raise ValueError("model: got an empty list, expected a model, or several in a list")
    if len(model) > 1 and ranks.size > 1:
        raise ValueError(
            f"model: got {len(model)} models for {ranks.size} processes: several models are "
            "searched by one process on one device; leave torchrun out, or give one model"
        )
    return model


def names_of(lms: Sequence[LM]) -> list[str]:
    """The models' names; one that comes again is numbered."""
    return numbered(lm.name for lm in lms)


def check_one_device(sources: Sequence[Any], lms: Sequence[LM], device: str | None) -> None:
    """Raise ValueError where loaded models lie on several devices, or others go to another."""
    places = {
        str(torch.device(device)) if isinstance(source, str | Path) and device else str(lm.device)
        for source, lm in zip(sources, lms, strict=True)
    }
    if len({_with_index(place) for place in places}) > 1:
        raise ValueError(
            f"model: got models on {' and '.join(sorted(places))}, expected all on one device: "
            "move them there"
        )


def _with_index(device: str) -> str:
    return f"{device}:0" if device == "cuda" else device


def check_one_vocabulary(lms: Sequence[LM]) -> None:
    """Refuse models whose ids stand for different tokens.

    A special token that only one has is no matter: no prompt is made of it.

    Raises:
        ValueError: says which tokens, of which models.
    """
    first = lms[0]
    for lm in lms[1:]:
        vocabularies = [own.tokenizer.get_vocab() for own in (first, lm)]
        special = [own.vocabulary.special_ids for own in (first, lm)]
        ids, others = vocabularies
        differ = [token for token in ids.keys() & others.keys() if ids[token] != others[token]]
        for known, unknown, own_special in zip(
            vocabularies, reversed(vocabularies), special, strict=True
        ):
            differ += [
                token for token in known.keys() - unknown.keys() if known[token] not in own_special
            ]
        if differ:
            raise ValueError(
                f"{lm.name} and {first.name} have different vocabularies: {len(differ)} tokens are "
                f"in one alone or have other ids ({listed(map(repr, sorted(differ)), 3)}), so that "
                f"no prompt has the same ids for both; {_ALONE}"
            )
        names = [
            token
            for token in ids.keys() & others.keys()
            if (ids[token] in special[0]) != (ids[token] in special[1])
        ]
        if names:
            raise ValueError(
                f"{lm.name} and {first.name} have different special tokens: "
                f"{listed(map(repr, sorted(names)), 3)}; {_ALONE}"
            )


def common_layouts(lms: Sequence[LM], layouts: Sequence[Layouts]) -> Layouts:
    """The rows of one set as all models read them, from the layout that each has of its own.

    Of models with embeddings of different sizes the ids of the smallest count, and of rows that
    were dropped for the length of a context those that fit all.

    Raises:
        ValueError: a row has other ids for one model than for another; says where they part.
    """
    first, narrowest = layouts[0], min(layouts, key=len)
    for lm, own in zip(lms[1:], layouts[1:], strict=True):
        _check_alike(lms[0], first, lm, own)
    return replace(narrowest, vocab_size=min(own.vocab_size for own in layouts))


def _check_alike(first: LM, layouts: Layouts, second: LM, others: Layouts) -> None:
    """Raise ValueError where two models read a row in different ways, or end in different ways."""
    rows = {id(row.example): number for number, row in enumerate(layouts.rows)}
    pairs = [
        (rows[id(row.example)], number)
        for number, row in enumerate(others.rows)
        if id(row.example) in rows
    ]
    for number, other in pairs:
        ids = layouts.context_ids(number, layouts.prompt_ids)
        if others.context_ids(other, others.prompt_ids) == ids:
            continue
        texts = [
            own.rendered(place, own.prompt_ids)
            for own, place in ((layouts, number), (others, other))
        ]
        row = place_of(layouts.rows[number].example, number)
        if texts[0] == texts[1]:
            raise ValueError(
                f"{first.name} and {second.name} cut {row} into different tokens, though "
                f"its text is the same: they do not share a tokenizer; {_ALONE}"
            )
        part = next(
            (i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b),
            min(map(len, texts)),
        )
        around = [quoted(text[max(0, part - 20) : part + 40]) for text in texts]
        raise ValueError(
            f"the chat templates of {first.name} and {second.name} differ: on {row} one "
            f"reads {around[0]}, the other {around[1]}; give both the same template, or {_ALONE}"
        )
    same = (
        layouts.prompt_ids == others.prompt_ids
        and layouts.extractor_ids == others.extractor_ids
        and layouts.end_ids == others.end_ids
        and all(layouts.rows[a].answer_ids == others.rows[b].answer_ids for a, b in pairs)
    )
    if not same:
        raise ValueError(
            f"prompt, extractor or answers have other ids for {first.name} than for {second.name}: "
            f"they do not share a tokenizer; {_ALONE}"
        )
