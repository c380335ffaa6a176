"""What the scoring kernels are compiled for.

Vocabulary and width are multiples of 16 in Llama 3 (128256 × 4096) and in Gemma 2 (256000 × 3584):
both run the same code.
"""

from typing import Any

import torch

from greater_fast.kernels.vocabulary import candidate_scores as ops
from greater_fast.kernels.vocabulary import top_k
from tests.kernels.compiling.compile_case import CompileCase

TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def case(kernel: Any, num_rows: int, dtype: torch.dtype, **constants: int) -> CompileCase:
    """A kernel with the block sizes of its launch."""
    sizes = ops.block_sizes(num_rows, dtype)
    options = {name: sizes.pop(name) for name in ("num_warps", "num_stages")}
    by_mask = kernel is ops.vocabulary_top_k_kernel
    signature = {
        "parts": f"*{TYPES[dtype]}",
        "factors": "*fp32",
        "embeddings": f"*{TYPES[dtype]}",
        **({"allowed": "*u8", "keys": "*i64"} if by_mask else {"ids": "*i64", "scores": "*fp32"}),
        "G": "i32",
        **({"V": "i32:16"} if by_mask else {"K": "i32"}),
        "D": "i32:16",
        "row_stride": "i32:16",
    }
    fixed = {**constants, **sizes}
    return CompileCase(
        name=f"{kernel.fn.__name__} {TYPES[dtype]} rows={num_rows} {constants}",
        kernel=kernel,
        signature={**signature, **dict.fromkeys(fixed, "constexpr")},
        constants=fixed,
        **options,
    )


def whole(num_rows: int, dtype: torch.dtype, k: int) -> CompileCase:
    return case(ops.vocabulary_top_k_kernel, num_rows, dtype, K=k, BLOCK_K=k, BLOCK_V=128)


def merge(k: int) -> CompileCase:
    constants = {"K": k, "BLOCK_N": top_k.BLOCK_N, "BLOCK_K": k}
    return CompileCase(
        name=f"merge_kernel {constants}",
        kernel=top_k.merge_kernel,
        signature={
            "keys": "*i64",
            "ids": "*i64",
            "scores": "*fp32",
            "N": "i32",
            **dict.fromkeys(constants, "constexpr"),
        },
        constants=constants,
    )


CASES = (
    case(ops.candidate_scores_kernel, 1, torch.bfloat16, BLOCK_V=32),
    case(ops.candidate_scores_kernel, 64, torch.bfloat16, BLOCK_V=32),
    case(ops.candidate_scores_kernel, 64, torch.float32, BLOCK_V=32),
    whole(1, torch.bfloat16, 16),
    whole(64, torch.bfloat16, 64),
    whole(64, torch.float16, 64),
    whole(64, torch.float32, 64),
    merge(16),
    merge(64),
)
