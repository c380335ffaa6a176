"""GreaterPrompt's settings as ours, and what they mean here."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from greater_fast.config import Config
from greater_fast.config_checks import guess
from greater_fast.gradients.example_loss import AnswerLoss
from greater_fast.runs.input import check_mapping, check_settings, notes_on_texts
from greater_fast.search.checks import check_callable
from greater_fast.wording import listed, quoted

# Their names, and those of the settings that they become.
_SETTINGS = {"intersect_q": "num_proposal_examples", "candidates_topk": "top_k"}
_GENERATION = {"temperature": "sampling_temperature", "max_new_tokens": "max_new_tokens"}
# Settings of ours that would be ignored, each with what decides it here.
_DECIDED = {
    "steps": "rounds",
    "minutes": "rounds",
    "extractor": "p_extractor",
    "num_train": "inputs",
    "num_dev": "inputs",
    "template": "a row's question",
    "metric": "the cross-entropy of the gold answers, which is the loss that is returned,",
}
_SWITCHES = ("perplexity_loss", "filter", "do_sample")
_KNOWN = (
    *_SETTINGS,
    *("loss_function", "perplexity_loss", "perplexity_lambda", "filter", "generate_config"),
)


def config_of(given: Mapping[str, Any], others: Mapping[str, Any]) -> Config:
    """Our settings for theirs, and for `others`, which are by our names.

    Raises:
        ValueError: as of the class; a value out of range is named as the user named it.
    """
    check_mapping(others)
    check_settings(others, _DECIDED)
    _check_names("optimize_config", given, _KNOWN)
    generation = given.get("generate_config", {})
    _check_names("generate_config", generation, ("do_sample", *_GENERATION))
    by_name = {**given, **generation}
    for name in _SWITCHES:
        if not isinstance(by_name.get(name, False), bool):
            raise ValueError(f"{name}: got {quoted(by_name[name])}, expected True or False")
    names = {**_SETTINGS, **_GENERATION}
    # What theirs are where they are missing; the loss is that of no temperature.
    values = {"num_proposal_examples": 1, "top_k": 3, "objective": "loss", "temperature": 1.0}
    if given.get("perplexity_loss", False):
        values["fluency_weight"] = 0.2
        names["perplexity_lambda"] = "fluency_weight"
    else:
        values["fluency_weight"] = 0.0
    if generation.get("do_sample", False):
        values["sampling_temperature"] = 1.0
    else:
        del names["temperature"]
    values |= {ours: by_name[name] for name, ours in names.items() if name in by_name}
    try:
        return Config.from_mapping({**values, **others})
    except ValueError as error:
        text = str(error)
        for name, ours in names.items():
            if name != ours and name in by_name and ours not in others:
                text = re.sub(rf"\b{ours}(?=: )", f"{name}, our {ours}", text)
        raise ValueError(text) from None


def loss_of(given: Any) -> AnswerLoss | None:
    """A loss function as our search takes it; None for the cross-entropy, which is its own.

    That of GreaterPrompt may give a value for each token: the mean is taken, as there.
    """
    if given is None or given is F.cross_entropy:
        return None
    check_callable("loss_function", given, ("logits [A, V]", "ids [A]"))

    def mean_loss(logits: torch.Tensor, ids: torch.Tensor) -> Any:
        values = given(logits, ids)
        return values.mean() if isinstance(values, torch.Tensor) else values

    return mean_loss


def notes_on(
    config: Config, loss: AnswerLoss | None, prompts: Iterable[str] = ()
) -> tuple[str, ...]:
    """What a user should know of the prompts and of their losses."""
    notes = [
        "the prompts are chosen on the rows that they were searched on",
        "losses are the mean cross-entropy of the gold answers of these rows, in nats per token",
        *notes_on_texts(list(prompts), config),
    ]
    if config.fluency_weight:
        notes.append(
            "perplexity_loss: what is weighted is the mean NLL of a prompt's tokens, the logarithm "
            "of its perplexity"
        )
    if loss is not None:
        notes.append(
            "loss_function: it shapes the candidates that are tried; which is best, and the losses "
            "that are returned, are by the answers' cross-entropy"
        )
    return tuple(notes)


def warn_of(name: str, arguments: Iterable[str]) -> None:
    """Warn of arguments that GreaterPrompt takes, too, and does not read."""
    if given := " and ".join(arguments):
        warnings.warn(f"{name}: {given} without effect", RuntimeWarning, stacklevel=3)


def _check_names(what: str, given: Any, known: Sequence[str]) -> None:
    """Raise ValueError for what is no mapping, or has a name that is not known."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{what}: got {quoted(given)}, expected a dict")
    for name in given:
        if name not in known:
            raise ValueError(
                f"{what}: got {quoted(name)}{guess(str(name), known)}; it may have {listed(known)}"
            )
