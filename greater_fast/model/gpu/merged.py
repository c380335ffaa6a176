"""Layers that read the same states, as one product: their weights become views of one matrix.

A layer of few outputs cannot fill a GPU, and a launch costs as much as a small product. Values stay
as they are, and so do the modules, their names and what is saved: it need not be undone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def merged_weights(layers: Sequence[Any]) -> torch.Tensor | None:
    """One matrix [N, K] of the layers' weights, one after another, or None where it cannot be.

    The layers' own weights are views of it from then on, so that no memory is taken twice: while
    one is merged, that of its weights. Layers that were merged before give the same matrix again.
    Only plain dense frozen `torch.nn.Linear` are merged, of one type, on one device; weights whose
    memory others own are left alone, for it would not be given back.
    """
    return _merged(layers, "weight")


def merged_biases(layers: Sequence[Any]) -> torch.Tensor | None:
    """One vector [N] of the layers' biases, as `merged_weights`; None where one has none."""
    return _merged(layers, "bias")


def _merged(layers: Sequence[Any], name: str) -> torch.Tensor | None:
    if not all(type(layer) is nn.Linear for layer in layers):
        return None
    parts: list[Any] = [getattr(layer, name, None) for layer in layers]
    whole = _adjacent(parts)
    if whole is not None or not _can_merge(parts):
        return whole
    with torch.inference_mode(False), torch.no_grad():
        whole = torch.cat([part.detach() for part in parts])
    for part, view in zip(parts, whole.split([len(part) for part in parts]), strict=True):
        part.data = view
    if whole.device.type == "cuda":  # else freed weights pile up, in pieces of a size nobody wants
        torch.cuda.empty_cache()
    return whole


def _can_merge(parts: Sequence[Any]) -> bool:
    """Whether all are dense, frozen and alike, each alone in its memory."""
    alike = {
        (part.dtype, part.device, part.shape[1:]) if _is_plain(part) else None for part in parts
    }
    places = {part.data_ptr() for part in parts if part is not None}
    return len(alike) == 1 and None not in alike and len(places) == len(parts)


def _is_plain(part: Any) -> bool:
    """Whether a parameter is numbers in a row, which fill memory that no other process reads."""
    if type(part) is not nn.Parameter or part.layout != torch.strided or part.requires_grad:
        return False
    storage = part.untyped_storage()
    is_alone = storage.nbytes() == part.numel() * part.itemsize and part.numel() > 0
    is_shared = part.device.type == "cpu" and part.is_shared()
    return part.is_contiguous() and part.device.type != "meta" and is_alone and not is_shared


def _adjacent(parts: Sequence[Any]) -> torch.Tensor | None:
    """The tensor that the parts are views of, where they lie one after another in its memory."""
    if not all(type(part) is nn.Parameter and part.is_contiguous() for part in parts):
        return None
    first: torch.Tensor = parts[0].detach()
    place = first.data_ptr()
    for part in parts:
        is_next = part.data_ptr() == place and part.dtype == first.dtype
        is_own = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not (is_next and is_own and part.shape[1:] == first.shape[1:]):
            return None
        place += part.numel() * part.itemsize
    size = sum(map(len, parts)), *first.shape[1:]
    return first.as_strided(size, first.stride(), first.storage_offset())
