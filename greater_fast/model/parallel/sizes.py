"""What one of the ranks that share a model has of it: heads, widths, bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from greater_fast.model.layers import LayerShape, layer_shapes

# Last names of the modules whose outputs a rank may have a part of.
_MAKES_HEADS = {"k_proj", "qkv_proj", "query_key_value"}
_MAKES_INNER = {"gate_proj", "up_proj", "gate_up_proj", "fc1", "c_fc", "dense_h_to_4h"}
_KEEPS_PARTS = {"colwise", "packed_colwise"}  # other styles gather what the ranks have made
_SPLITS_WEIGHTS = ("colwise", "rowwise", "packed_", "embedding_")


def plan_of(config: Any) -> dict[str, str]:
    """How the layers of a (text) configuration are shared: module names to styles; may be empty."""
    return getattr(config, "base_model_tp_plan", None) or {}


def shares_heads(config: Any) -> bool:
    """Whether each rank has heads of its own, where several share the model."""
    return _keeps_parts(config, _MAKES_HEADS)


def shapes_of_rank(config: Any, num_ranks: int) -> tuple[LayerShape, ...]:
    """The layers of a (text) configuration as one rank has them.

    Raises:
        ValueError: the configuration does not say how many there are, or how wide.
    """
    heads = num_ranks if shares_heads(config) else 1
    inner = num_ranks if _keeps_parts(config, _MAKES_INNER) else 1
    return tuple(
        replace(
            shape,
            num_heads=shape.num_heads // heads,
            num_kv_heads=shape.num_kv_heads // heads,
            inner=-(-shape.inner // inner),
        )
        for shape in layer_shapes(config)
    )


def is_part(tensor: Any) -> bool:
    """Whether a parameter is a rank's part of one that is shared: one of torch's DTensors."""
    return hasattr(tensor, "to_local")


def is_packed(tensor: Any) -> bool:
    """Whether a tensor is a wrapper of others that hold its numbers in fewer bits (torchao)."""
    return hasattr(tensor, "__tensor_flatten__") and not is_part(tensor)


def tensor_bytes(tensor: Any) -> int:
    """Bytes that a tensor holds; a wrapper's own size is that of its numbers unpacked."""
    if not is_packed(tensor):
        return int(tensor.nbytes)
    names, _ = tensor.__tensor_flatten__()
    return sum(tensor_bytes(getattr(tensor, name)) for name in names)


def bytes_of_rank(model: Any, num_ranks: int) -> int:
    """Bytes of all parameters and buffers, tied ones once, that a rank has of a model.

    Of a model on the meta device they are told from its plan.
    """
    plan = getattr(model, "_tp_plan", None) or {}
    total = sum(map(tensor_bytes, model.buffers()))
    for name, parameter in model.named_parameters():
        if is_part(parameter):
            total += parameter.to_local().nbytes
        elif num_ranks > 1 and _splits(plan, name):
            total += -(-parameter.nbytes // num_ranks)
        else:
            total += tensor_bytes(parameter)
    return int(total)


def _keeps_parts(config: Any, names: set[str]) -> bool:
    """Whether a rank keeps its part of what modules of these names give, as the plan says."""
    return any(
        rule.rpartition(".")[2] in names and style in _KEEPS_PARTS
        for rule, style in plan_of(config).items()
    )


def _splits(plan: dict[str, str], name: str) -> bool:
    """Whether a plan's rule for a parameter, or for its module, gives each rank a part of it."""
    generic = ".".join("*" if part.isdigit() else part for part in name.split("."))
    style = plan.get(generic) or plan.get(generic.rpartition(".")[0]) or ""
    return style.startswith(_SPLITS_WEIGHTS)
