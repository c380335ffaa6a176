"""What kernels/layers/gated.py is compiled for."""

import torch

from greater_fast.kernels.layers import gated as op
from tests.kernels.compiling.cases_paged_attention import TYPES
from tests.kernels.compiling.compile_case import CompileCase


def case(dtype: torch.dtype, activation: str, backward: bool) -> CompileCase:
    tensors = ["gate", "up", "outputs"]
    strides = ["gate_stride", "up_stride"]
    if backward:
        tensors = ["gate", "up", "by_outputs", "by_gate", "by_up"]
        strides.append("by_stride")
    constants = {"ACTIVATION": activation} | op.sizes(14336)  # Llama 3 8B
    return CompileCase(
        name=f"gated_{TYPES[dtype]}_{activation}{'_back' * backward}",
        kernel=op.gated_backward_kernel if backward else op.gated_kernel,
        signature=dict.fromkeys(tensors, "*" + TYPES[dtype])
        | dict.fromkeys(strides, "i32:16")
        | {"num_rows": "i32"}
        | dict.fromkeys(constants, "constexpr"),
        constants=constants,
    )


CASES: tuple[CompileCase, ...] = tuple(
    case(dtype, activation, backward)
    for dtype, activation in (
        (torch.bfloat16, "silu"),
        (torch.float32, "silu"),
        (torch.bfloat16, "gelu_tanh"),
        (torch.float16, "gelu"),
    )
    for backward in (False, True)
)
