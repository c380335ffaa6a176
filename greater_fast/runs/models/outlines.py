"""Models before their weights are there: rows are laid out for them, and faults are told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from greater_fast.config import Config
from greater_fast.memory.outline import outline_lm
from greater_fast.model.files import usable_device
from greater_fast.model.lm import LM
from greater_fast.model.parallel.loading import sharing_ranks
from greater_fast.runs.models.alike import check_one_device, check_one_vocabulary
from greater_fast.wording import quoted


def outlined(
    models: Sequence[Any], config: Config, device: str | None = None
) -> tuple[tuple[LM, ...], str]:
    """Models that rows can be laid out for, without the weights of what is not loaded; the device.

    Raises:
        ValueError: no such device, or models that do not go together.
    """
    place = device
    if place is None and any(isinstance(model, str | Path) for model in models):
        place = usable_device(config.device)
    lms = tuple(outline_lm(model, place, config.dtype, sharing_ranks(config)) for model in models)
    if device is None:
        check_placements(models, lms, place, config)
    check_one_vocabulary(lms)
    return lms, place or str(lms[0].device)


def is_loaded(lm: LM) -> bool:
    """Whether a model has its weights."""
    return lm.device.type != "meta"


def check_placements(
    models: Sequence[Any], lms: Sequence[LM], device: str | None, config: Config
) -> None:
    """Raise ValueError where loaded models lie elsewhere than is asked for, or than the others.

    `device` is where those go that are not loaded.
    """
    for model, lm in zip(models, lms, strict=True):
        check_placement(model, lm, config)
    check_one_device(models, lms, device)


def check_placement(model: Any, lm: LM, config: Config) -> None:
    """Raise ValueError where a loaded model is laid out in another way than is asked for."""
    if isinstance(model, str | Path):
        return
    if config.tensor_parallel != (lm.ranks.size > 1):
        found = "shared by ranks" if lm.ranks.size > 1 else "whole on each rank"
        raise ValueError(
            f"tensor_parallel: got {config.tensor_parallel} beside a loaded model that is {found}: "
            f"set it to {not config.tensor_parallel}, or pass the model's name or folder"
        )
    dtype = str(lm.dtype).removeprefix("torch.")
    if config.dtype not in (None, dtype):
        raise ValueError(
            f"dtype: got {config.dtype} beside a loaded model of {dtype}: convert the model, or "
            "leave dtype out"
        )
    if config.device is not None and not _is_there(lm.device, config.device):
        raise ValueError(
            f"device: got {quoted(config.device)} beside a model loaded on {lm.device}: move the "
            "model there, or leave device out"
        )


def _is_there(device: torch.device, name: str) -> bool:
    try:
        wanted = torch.device(name)
    except RuntimeError:  # no device has that name
        return False
    return wanted.type == device.type and wanted.index in (None, device.index or 0)
