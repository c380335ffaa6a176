"""What kernels/attention/paged.py is compiled for."""

from typing import Any

import torch

from greater_fast.kernels.attention import paged as op
from tests.kernels.compiling.compile_case import CompileCase

TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
STATE = ["partial", "stats"]
INTS = ["starts", "context_lens"]


def shared(head_size: int, workers: int) -> dict[str, Any]:
    return {
        "HEAD_SIZE": head_size,
        "HEAD_PAD": max(16, 1 << (head_size - 1).bit_length()),
        "SPLIT": op.SPLIT,
        "WORKERS": workers,
    }


def attend(
    head_size: int, dtype: torch.dtype, group: int, workers: int = 8, has_cap: bool = False
) -> CompileCase:
    pointer = "*" + TYPES[dtype]
    own = shared(head_size, workers)
    tiling = op.tiling(own["HEAD_PAD"], dtype)
    constants = own | {
        "HAS_CAP": has_cap,
        "GROUP": group,
        "ROWS": max(16, 1 << (group - 1).bit_length()),
        "BLOCK_SIZE": 16,
        "TILE_KEYS": tiling["TILE_KEYS"],
    }
    numbers = {"num_sequences": "i32", "table_width": "i32"}
    strides = ["query_stride_m", "query_stride_h"]
    return CompileCase(
        name=f"attend_{TYPES[dtype]}_{head_size}_group{group}_workers{workers}_cap{has_cap:d}",
        kernel=op.paged_attention_kernel,
        signature=dict.fromkeys(["queries", "keys", "values", "output"], pointer)
        | dict.fromkeys(STATE, "*fp32")
        | dict.fromkeys([*INTS, "tables"], "*i32")
        | numbers
        | dict.fromkeys(strides, "i32:16")
        | {"scale": "fp32", "soft_cap": "fp32", "window": "i32"}
        | dict.fromkeys(constants, "constexpr"),
        constants=constants,
        num_warps=tiling["num_warps"],
        num_stages=tiling["num_stages"],
        spills={"gfx942": 120} if head_size > 256 and dtype == torch.float32 else {},
    )


def merge(head_size: int, dtype: torch.dtype) -> CompileCase:
    constants = shared(head_size, 8) | {"WORKERS_PAD": 8}
    return CompileCase(
        name=f"merge_{TYPES[dtype]}_{head_size}",
        kernel=op.merge_splits_kernel,
        signature=dict.fromkeys(STATE, "*fp32")
        | {"output": "*" + TYPES[dtype]}
        | dict.fromkeys(INTS, "*i32")
        | {"num_sequences": "i32", "window": "i32"}
        | dict.fromkeys(constants, "constexpr"),
        constants=constants,
        num_warps=1,
    )


CASES: tuple[CompileCase, ...] = (
    *(attend(head_size, torch.bfloat16, 4) for head_size in (64, 80, 128)),
    attend(128, torch.float16, 7, workers=1),
    attend(256, torch.bfloat16, 2, workers=3, has_cap=True),
    attend(128, torch.float32, 4, has_cap=True),
    *(attend(512, dtype, 8) for dtype in (torch.bfloat16, torch.float32)),
    merge(128, torch.bfloat16),
    merge(256, torch.float32),
    *(merge(512, dtype) for dtype in (torch.bfloat16, torch.float32)),
)
