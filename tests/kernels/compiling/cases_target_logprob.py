"""What the log-probability kernels are compiled for.

Vocabulary and width are multiples of 16 in Llama 3 (128256 × 4096) and in Gemma 2 (256000 × 3584),
which caps its logits.
"""

from typing import Any

import torch

from greater_fast.kernels.vocabulary import target_logprob as ops
from greater_fast.kernels.vocabulary import target_logprob_backward as backward
from greater_fast.kernels.vocabulary.head_logits import block_sizes
from tests.kernels.compiling.compile_case import CompileCase

TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
SIZES = {"R": "i32", "V": "i32:16", "D": "i32:16", "weight_stride": "i32:16"}
FACTORS = {"scale": "fp32", "cap": "fp32"}
ROW = dict.fromkeys(("peaks", "log_sums"), "*fp32")
PARTS = dict.fromkeys(("part_peaks", "part_sums", "part_aims"), "*fp32") | {"part_argmax": "*i32"}
NORMALISER = {"targets": "*i64", "temperatures": "*fp32"}


def case(
    kernel: Any, dtype: torch.dtype, signature: dict[str, str], **constants: Any
) -> CompileCase:
    """A kernel with the block sizes of its launch; `signature` in the order of its arguments."""
    sizes = block_sizes(dtype, constants.get("SAMPLED", False))
    options = {name: sizes.pop(name) for name in ("num_warps", "num_stages")}
    fixed = {**constants, **sizes}
    return CompileCase(
        name=f"{kernel.fn.__name__} {TYPES[dtype]} {constants}",
        kernel=kernel,
        signature={**signature, **dict.fromkeys(fixed, "constexpr")},
        constants=fixed,
        **options,
    )


def optional(kinds: dict[str, str], given: bool) -> tuple[dict[str, str], dict[str, None]]:
    """Types of arguments that may be None, and those that are."""
    return (kinds, {}) if given else (dict.fromkeys(kinds, "constexpr"), dict.fromkeys(kinds))


def forward(dtype: torch.dtype, capped: bool, sampled: bool = False) -> CompileCase:
    matrix = f"*{TYPES[dtype]}"
    noise = {"keys": "*i64", "places": "*i64", "noisy_peaks": "*fp32", "sampled": "*i32"}
    kinds, missing = optional(noise, sampled)
    signature = {
        "hidden": matrix,
        "weight": matrix,
        **NORMALISER,
        "keys": kinds["keys"],
        "places": kinds["places"],
        **dict.fromkeys(("peaks", "sums", "aims"), "*fp32"),
        "argmax": "*i32",
        "noisy_peaks": kinds["noisy_peaks"],
        "sampled": kinds["sampled"],
        **SIZES,
        **FACTORS,
        "heat": "fp32",
    }
    constants = {
        "CAPPED": capped,
        "SAMPLED": sampled,
        "TILES": ops.PART // block_sizes(dtype, sampled)["BLOCK_V"],
    }
    return case(ops.partial_logsumexp_kernel, dtype, signature, **constants, **missing)


def coefficients(dtype: torch.dtype, capped: bool) -> CompileCase:
    matrix = f"*{TYPES[dtype]}"
    signature = {
        "hidden": matrix,
        **NORMALISER,
        **ROW,
        "weight": matrix,
        "coefficients": matrix,
        **SIZES,
        "first": "i32:16",
        **FACTORS,
    }
    kernel = backward.coefficients_kernel
    return case(kernel, dtype, signature, CAPPED=capped, CHUNK=backward.CHUNK)


def add_products(dtype: torch.dtype) -> CompileCase:
    signature = {
        "coefficients": f"*{TYPES[dtype]}",
        "weight": f"*{TYPES[dtype]}",
        "gradients": "*fp32",
        "R": "i32",
        "D": "i32:16",
        "weight_stride": "i32:16",
        "first": "i32:16",
        "columns": "i32:16",
    }
    return case(backward.add_products_kernel, dtype, signature, CHUNK=backward.CHUNK)


def merge(num_parts: int, sampled: bool) -> CompileCase:
    noise = {"places": "*i64", "part_noisy_peaks": "*fp32", "part_sampled": "*i32"}
    kinds, missing = optional(noise | {"sampled": "*i64"}, sampled)
    constants = {"SAMPLED": sampled, "BLOCK_S": num_parts}
    return CompileCase(
        name=f"merge_logsumexp_kernel {constants}",
        kernel=ops.merge_logsumexp_kernel,
        signature={
            **NORMALISER,
            "places": kinds["places"],
            **PARTS,
            "part_noisy_peaks": kinds["part_noisy_peaks"],
            "part_sampled": kinds["part_sampled"],
            "logprobs": "*fp32",
            **ROW,
            "argmax": "*i64",
            "sampled": kinds["sampled"],
            "V": "i32:16",
            "S": "i32",
            "SAMPLED": "constexpr",
            "BLOCK_S": "constexpr",
        },
        constants=constants | missing,
    )


CASES = (
    forward(torch.bfloat16, False),
    forward(torch.bfloat16, True),
    forward(torch.float16, False),
    forward(torch.float32, True),
    forward(torch.bfloat16, False, sampled=True),
    forward(torch.bfloat16, True, sampled=True),
    forward(torch.float16, True, sampled=True),
    forward(torch.float32, True, sampled=True),
    coefficients(torch.bfloat16, False),
    coefficients(torch.bfloat16, True),
    coefficients(torch.float32, True),
    add_products(torch.bfloat16),
    add_products(torch.float32),
    merge(512, sampled=False),
    merge(512, sampled=True),
)
