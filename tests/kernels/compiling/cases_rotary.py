"""What kernels/layers/rotary_kernels.py is compiled for."""

from typing import Any

import torch

from greater_fast.kernels.layers import rotary_kernels as op
from tests.kernels.compiling.cases_paged_attention import TYPES
from tests.kernels.compiling.compile_case import CompileCase


def case(
    kernel: Any,
    head_size: int,
    dtype: torch.dtype,
    group: int,
    *,
    turned: int = 0,
    interleaved: bool = False,
    has_norm: bool = False,
    pooled: bool = False,
) -> CompileCase:
    group_pad, pairs_pad = (1 << (n - 1).bit_length() for n in (group, head_size // 2))
    constants: dict[str, Any] = {
        "GROUP": group,
        "GROUP_PAD": group_pad,
        "HEAD_SIZE": head_size,
        "TURNED": turned or head_size,
        "PAIRS_PAD": pairs_pad,
        "INTERLEAVED": int(interleaved),
    }
    is_forward = kernel is op.turn_kernel
    absent = [] if has_norm else ["query_weights", "key_weights"]
    if is_forward:
        constants["BLOCK_SIZE"] = 16 if pooled else 1
        absent += [] if pooled else ["slots"]
    elif not has_norm:
        absent.append("states")
    signature = dict.fromkeys(kernel.arg_names, "*" + TYPES[dtype])
    signature |= {name: "i32:16" for name in kernel.arg_names if "_stride_" in name}
    signature |= {"epsilon": "fp32", "offset": "fp32"}
    if pooled:
        signature["slots"] = "*i32"
    constants |= dict.fromkeys(absent)
    return CompileCase(
        name=f"{'turn' if is_forward else 'turn_back'}_{TYPES[dtype]}_{head_size}_group{group}"
        f"_norm{has_norm:d}_pool{pooled:d}_{'pairs' if interleaved else 'halves'}",
        kernel=kernel,
        signature=signature | dict.fromkeys(constants, "constexpr"),
        constants=constants,
        num_warps=max(1, min(4, 2 * group_pad * pairs_pad // 1024)),
    )


CASES: tuple[CompileCase, ...] = (
    case(op.turn_kernel, 128, torch.bfloat16, 4, pooled=True),
    case(op.turn_kernel, 128, torch.bfloat16, 4, pooled=True, has_norm=True),
    case(op.turn_kernel, 96, torch.float16, 1, pooled=True, turned=72),
    case(op.turn_kernel, 256, torch.float32, 71, pooled=True, interleaved=True),
    case(op.turn_kernel, 64, torch.bfloat16, 7),
    case(op.turn_back_kernel, 128, torch.bfloat16, 4),
    case(op.turn_back_kernel, 256, torch.bfloat16, 8, has_norm=True),
    case(op.turn_back_kernel, 80, torch.float32, 3, turned=32, interleaved=True),
)
