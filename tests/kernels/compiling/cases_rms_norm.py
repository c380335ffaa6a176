"""What kernels/layers/rms_norm.py is compiled for."""

from typing import Any

import torch

from greater_fast.kernels.layers import rms_norm_kernels as op
from greater_fast.kernels.layers.rms_norm import MAX_WIDTH
from tests.kernels.compiling.cases_paged_attention import TYPES
from tests.kernels.compiling.compile_case import CompileCase

ALL = frozenset({"residual", "first", "second"})  # Gemma's, before its MLP
NORM = frozenset({"second"})


def case(width: int, dtype: torch.dtype, there: frozenset[str], backward: bool) -> CompileCase:
    """A launch with what is `there`; else None stands in its place."""
    tensors = ["x", "residual", "sums", "normed", "first_weights", "second_weights"]
    absent = {"residual": ["residual", "sums"], "second": ["normed", "second_weights"]}
    absent["first"] = ["first_weights"]
    if backward:
        tensors = ["x", "sums", "by_sums", "by_normed", "by_residual", "by_x", *tensors[-2:]]
        absent = {
            "residual": ["by_sums"],
            "second": ["sums", "by_normed", "second_weights"],
            "first": ["x", "by_x", "first_weights"],
        }
    nothing = [name for part, names in absent.items() if part not in there for name in names]
    sizes = op.sizes(width)
    num_warps = sizes.pop("num_warps")
    forms: dict[str, Any] = {"FIRST_OFFSET": 1.0, "SECOND_OFFSET": 1.0}
    if not backward:
        forms |= {"FIRST_ROUNDS": False, "SECOND_ROUNDS": True}
    constants: dict[str, Any] = dict.fromkeys(nothing) | forms | sizes
    strides = ["x_stride", "sums_stride" if backward else "residual_stride"]
    return CompileCase(
        name=f"norm_{TYPES[dtype]}_{width}_{'_'.join(sorted(there))}{'_back' * backward}",
        kernel=op.rms_norm_backward_kernel if backward else op.rms_norm_kernel,
        signature={name: "constexpr" if name in nothing else "*" + TYPES[dtype] for name in tensors}
        | dict.fromkeys(strides, "i32:16")
        | {"num_rows": "i32", "first_epsilon": "fp32", "second_epsilon": "fp32"}
        | dict.fromkeys([*forms, *sizes], "constexpr"),
        constants=constants,
        num_warps=num_warps,
    )


CASES: tuple[CompileCase, ...] = tuple(
    case(width, dtype, there, backward)
    for width, dtype, there in (
        (128, torch.bfloat16, NORM),  # of a head
        (4096, torch.bfloat16, NORM | {"residual"}),  # Llama 3 8B
        (3584, torch.bfloat16, ALL),  # Gemma 2 9B
        (4096, torch.bfloat16, ALL - NORM),  # OLMo 2
        (MAX_WIDTH, torch.bfloat16, ALL),
        (MAX_WIDTH, torch.float32, ALL),
        (80, torch.float16, NORM),
    )
    for backward in (False, True)
)
