"""Who attends over a packed row: Triton on a GPU, csrc on a CPU, plain torch elsewhere."""

from __future__ import annotations

from greater_fast.kernels.checks import max_packed_head
from greater_fast.kernels.dispatch import uses_triton
from greater_fast.model.cpu import attention as cpu_attention
from greater_fast.model.layers import layer_shapes
from greater_fast.model.lm import LM


def choose_attention(lm: LM, kernels: str = "auto") -> str:
    """`triton` where the setting and the model let it, else `csrc` on a CPU, else `torch`.

    Raises:
        ValueError: Triton was forced, and it does not run on the device or in the model's type.
    """
    matrix = lm.model.get_input_embeddings().weight
    if triton_obstacle(lm) is None and uses_triton(kernels, matrix, matrix):
        return "triton"
    return "csrc" if cpu_attention.takes(matrix) else "torch"


def triton_obstacle(lm: LM) -> str | None:
    """What of a model's heads keeps the Triton kernel from it, on whatever device."""
    most = max_packed_head(lm.dtype)
    for shape in layer_shapes(lm.model.config.get_text_config()):
        if shape.key_size != shape.value_size:
            return f"keys of {shape.key_size} numbers a head and values of {shape.value_size}"
        if shape.key_size > most:
            return f"heads of {shape.key_size} numbers, more than {most}"
    return None


def why_bits_differ(lm: LM, *, packs: bool, kernels: str = "auto") -> str | None:
    """What lets a gradient's last bits differ from run to run, or None where nothing does.

    On a GPU, torch's attention adds up the gradients of keys as its programs come to it; our
    kernels have an order, and so have products of matrices in one stream.
    """
    config = lm.model.config.get_text_config()
    if lm.device.type == "cpu":
        return None
    if not packs:
        return "whole sequences go through the model's own attention"
    if choose_attention(lm, kernels) != "triton":
        return f"attention is torch's: {triton_obstacle(lm) or 'its kernels were asked for'}"
    if any(shape.num_experts > 0 for shape in layer_shapes(config)):
        return "what several experts make of a token is added up in no order"
    return None
