"""A model with its weights, where every one of them is from the model's files."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

import torch

from greater_fast.model.files import ModelFiles, clear_load_errors
from greater_fast.model.parallel.loading import check_shared, shared_options
from greater_fast.ranks import ALONE, Ranks

_FEW = 4  # names in a message


def read_weights(
    files: ModelFiles,
    config: Any,
    dtype: torch.dtype,
    ranks: Ranks = ALONE,
    device: str = "cpu",
) -> tuple[Any, tuple[str, ...]]:
    """The model of these files, and what a user should know of what is in them beside it.

    `config` is taken of a GGUF file, as it was completed from it. The model is on `device` where
    that is a GPU and weights can go there one by one, else on the CPU.
    Several ranks read a part each, onto their own devices.

    transformers gives a weight that it does not find random numbers, and says so in a log alone.

    Raises:
        ValueError: there is no such model, or weights are missing, of another shape, or have no
            place in it; names them.
    """
    from transformers import AutoModelForCausalLM

    safe = {} if files.options else {"use_safetensors": True}
    with clear_load_errors(files.name):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            files.path,
            dtype=dtype,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # or they are not named
            **files.options,
            **({**dense_options(), "config": config} if files.options else {}),
            **safe,
            **shared_options(ranks),
            **_placing_options(files, ranks, device),
        )
    model, report = loaded
    check_shared(model, ranks)
    wrong = [
        f"{name} of {list(found)} for {list(asked)}"
        for name, found, asked in report["mismatched_keys"]
    ]
    beside = _parts_beside(report["unexpected_keys"], model)
    homeless = {name for name in report["unexpected_keys"] if _part(name, model) not in beside}
    problems = [
        f"{text}: {_listed(names)}"
        for text, names in (
            ("weights are missing", report["missing_keys"]),
            ("weights are of another shape than the configuration has", wrong),
            ("weights have no place in it", homeless),
        )
        if names
    ]
    if problems:
        raise ValueError(
            f"the files of {files.name} are not whole, or not of one model: {'; '.join(problems)}"
        )
    if not beside:
        return model, ()
    return model, (f"parts of {files.name} that are no part of its text model: {_listed(beside)}",)


def dense_options() -> dict[str, Any]:
    """Arguments by which a GGUF file's weights are unpacked, as older transformers always do it."""
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _placing_options(files: ModelFiles, ranks: Ranks, device: str) -> dict[str, Any]:
    """Arguments by which weights are read onto a GPU without all of them in the host's memory.

    transformers needs accelerate for it. A GGUF file is read its own way.
    """
    kind = torch.device(device)
    has_accelerate = importlib.util.find_spec("accelerate") is not None
    if kind.type != "cuda" or ranks.size > 1 or files.options or not has_accelerate:
        return {}
    return {"device_map": {"": kind}}


def _parts_beside(names: Iterable[str], model: Any) -> set[str]:
    """Whole parts of a checkpoint that weights are of, where the model has nothing of that part.

    So it is with an image encoder beside a text model. A part has parts of its own: a single weight
    is none, nor is one in the midst of the model's own.
    """
    own = {_part(name, model) for name in model.state_dict()}
    prefix = f"{model.base_model_prefix}."
    nested = {_part(name, model) for name in names if name.removeprefix(prefix).count(".") > 1}
    return nested - own


def _part(name: str, model: Any) -> str:
    """The part of the model, or of its base, that a weight is of."""
    return name.removeprefix(f"{model.base_model_prefix}.").partition(".")[0]


def _listed(names: Iterable[str]) -> str:
    """A few names, and how many more there are."""
    known = sorted(names)
    more = len(known) - _FEW
    return ", ".join(known[:_FEW]) + (f" and {more} more" if more > 0 else "")
