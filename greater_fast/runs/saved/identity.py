"""Digests by which a run knows its model and its rows again, wherever they lie now."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from greater_fast.examples.layout import Layouts
from greater_fast.model.lm import LM

_DECIDE_NOTHING = frozenset(
    {
        *("transformers_version", "name_or_path", "auto_map", "architectures"),
        *("dtype", "torch_dtype"),
    }
)
_NUM_SAMPLED = 1024  # numbers of each tensor


def layout_digest(layouts: Mapping[str, Layouts]) -> str:
    """What all rows of a run are as ids: questions, template, extractor, answers and tokenizer."""
    digest = hashlib.sha256()
    for name, rows in layouts.items():
        digest.update(repr((name, rows.prompt_ids, rows.extractor_ids)).encode())
        for row in rows.rows:
            digest.update(repr((row.head_ids, row.tail_ids, row.answer_ids)).encode())
    return digest.hexdigest()


@torch.no_grad()
def weights_digest(lm: LM) -> str:
    """What a model's weights are: names, types, shapes, and numbers evenly taken from each tensor.

    Files need not be read again, and a model that was loaded by its user has one too. Another
    training step, another merge or another quantisation changes it; a change of a few single
    numbers may not.
    """
    digest = hashlib.sha256()
    with lm.lock:
        for name, tensor in lm.model.state_dict().items():
            own = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # of a shared model
            if isinstance(own, torch.Tensor):
                digest.update(repr((name, tuple(own.shape), str(own.dtype))).encode())
                with contextlib.suppress(NotImplementedError):  # packed in a class of its own
                    digest.update(_sample(own))
    return digest.hexdigest()


def config_digest(lm: LM) -> str:
    """What a model computes with its weights, as its config.json says: rope, windows, scaling.

    Names, paths and the library's version are left out, and the type, which is compared by itself.
    """
    values = _of_computing(lm.model.config.to_diff_dict())
    written = json.dumps(values, sort_keys=True, default=lambda value: type(value).__name__)
    return hashlib.sha256(written.encode()).hexdigest()


def _of_computing(value: Any) -> Any:
    """A config's values, those of the configs in it too, without those that decide nothing."""
    if not isinstance(value, Mapping):
        return value
    return {
        str(name): _of_computing(own)
        for name, own in value.items()
        if not (str(name).startswith("_") or name in _DECIDE_NOTHING)
    }


def ending_ids(lm: LM, layouts: Mapping[str, Layouts]) -> list[int]:
    """Ids that end a reasoning, in order: those of a turn, and those of the rows."""
    return sorted(lm.end_ids.union(*(rows.end_ids for rows in layouts.values())))


def _sample(tensor: torch.Tensor) -> bytes:
    """The bytes of numbers evenly taken from a tensor, its first and last among them."""
    flat = tensor.detach().reshape(-1)
    if not len(flat):
        return b""
    number = min(_NUM_SAMPLED, len(flat))
    places = torch.linspace(0, len(flat) - 1, number, dtype=torch.float64).round().long()
    return bytes(flat[places.to(flat.device)].cpu().contiguous().view(torch.uint8).numpy())
