"""Whether ranks can share a model, and how it is read so."""

from __future__ import annotations

from typing import Any

import torch

from greater_fast.config import Config
from greater_fast.model.files import ModelFiles
from greater_fast.model.layers import layer_shapes
from greater_fast.model.parallel.sizes import is_part, plan_of, shares_heads
from greater_fast.ranks import ALONE, Ranks, join


def sharing_ranks(config: Config) -> Ranks | None:
    """The ranks that are to share the model as the settings say, or None: each has all of it."""
    return join() if config.tensor_parallel else None


def check_shareable(files: ModelFiles, config: Any, device: str, ranks: Ranks) -> None:
    """Refuse what the ranks cannot share, before any weight is read.

    Raises:
        ValueError: there is one process, or the model or the device does not allow it; says why.
    """
    if ranks.size == 1:
        raise ValueError(
            "tensor_parallel: got True in one process, expected several that share the model: "
            "start them with torchrun --nproc-per-node N -m greater_fast ..."
        )
    accelerator = torch.accelerator.current_accelerator()
    kind = accelerator.type if accelerator else "cpu"
    if torch.device(device).type != kind:
        raise ValueError(
            f"device: got {device} beside tensor_parallel=True, which transformers runs on {kind} "
            "here: leave device out"
        )
    reason = _obstacle(files, config, ranks.size)
    if reason is not None:
        raise ValueError(
            f"tensor_parallel: {files.name} cannot be shared by {ranks.size} ranks: {reason}"
        )


def _obstacle(files: ModelFiles, config: Any, num_ranks: int) -> str | None:
    """What keeps a model from being shared by so many ranks, or None."""
    whole = "leave tensor_parallel out, and each rank holds all of it"
    if files.options:
        return f"a GGUF file is read whole; convert it to safetensors, or {whole}"
    if getattr(config, "quantization_config", None) is not None:
        return f"its weights are quantised; {whole}"
    config = config.get_text_config()
    if not plan_of(config):
        return f"transformers has no plan for models of the kind {config.model_type}; {whole}"
    for shape in layer_shapes(config) if shares_heads(config) else ():
        for count, what in ((shape.num_heads, "heads"), (shape.num_kv_heads, "K/V heads")):
            if count % num_ranks:
                return f"it has {count} {what} a layer: take a number of ranks that divides them"
    return None


def shared_options(ranks: Ranks) -> dict[str, Any]:
    """Arguments of transformers' `from_pretrained` by which each rank reads its part alone.

    Raises:
        ValueError: this transformers has none.
    """
    if ranks.size == 1:
        return {}
    from transformers.distributed.configuration_utils import DistributedConfig

    try:
        return {"distributed_config": DistributedConfig(tp_size=ranks.size)}
    except TypeError as error:  # it has no such field yet
        raise _too_old() from error


def check_shared(model: Any, ranks: Ranks) -> None:
    """Raise ValueError where transformers was asked to share a model out, and did not."""
    if ranks.size > 1 and not any(map(is_part, model.parameters())):
        raise _too_old()


def _too_old() -> ValueError:
    import transformers

    return ValueError(
        f"tensor_parallel: transformers {transformers.__version__} does not share models out: "
        "expected 5.17 or later"
    )


def ranks_of(model: Any, ranks: Ranks | None) -> Ranks:
    """The ranks that share a model which its user has loaded: `ranks`, or none where it is whole.

    Raises:
        ValueError: it is shared, and not by these ranks.
    """
    size = int(getattr(model, "_tp_size", None) or 1)
    if size == 1:
        return ALONE
    if ranks is None or ranks.size != size:
        here = 1 if ranks is None else ranks.size
        raise ValueError(
            f"tensor_parallel: the model was loaded as a part for each of {size} ranks, which are "
            f"{here} here: set it to True, and start {size} processes"
        )
    return ranks
