"""What kernels/attention/kv_blocks.py is compiled for."""

import torch

from greater_fast.kernels.attention import kv_blocks as op
from tests.kernels.compiling.cases_paged_attention import TYPES
from tests.kernels.compiling.compile_case import CompileCase


def store(head_size: int, dtype: torch.dtype) -> CompileCase:
    pointer = "*" + TYPES[dtype]
    strides = ["key_stride_m", "key_stride_h", "value_stride_m", "value_stride_h"]
    constants = {
        "BLOCK_SIZE": 16,
        "HEAD_SIZE": head_size,
        "HEAD_PAD": 1 << (head_size - 1).bit_length(),
    }
    return CompileCase(
        name=f"store_{TYPES[dtype]}_{head_size}",
        kernel=op.store_kv_kernel,
        signature=dict.fromkeys(["new_keys", "new_values", "keys", "values"], pointer)
        | {"slots": "*i32"}
        | dict.fromkeys(strides, "i32:16")
        | dict.fromkeys(constants, "constexpr"),
        constants=constants,
        num_warps=1,
    )


def copy(dtype: torch.dtype, block_numbers: int) -> CompileCase:
    return CompileCase(
        name=f"copy_{TYPES[dtype]}_{block_numbers}",
        kernel=op.copy_blocks_kernel,
        signature={
            "data": "*" + TYPES[dtype],
            "pairs": "*i32",
            "num_blocks": "i32",
            "BLOCK_NUMBERS": "constexpr",
            "TILE": "constexpr",
        },
        constants={"BLOCK_NUMBERS": block_numbers, "TILE": 1024},
    )


CASES: tuple[CompileCase, ...] = (
    store(128, torch.bfloat16),
    store(80, torch.float32),
    copy(torch.bfloat16, 8 * 16 * 128),
    copy(torch.float32, 3 * 16 * 12),
)
