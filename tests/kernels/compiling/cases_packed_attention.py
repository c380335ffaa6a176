"""What kernels/attention/packed.py and its gradient are compiled for."""

from typing import Any

import torch

from greater_fast.kernels.attention import packed as op
from greater_fast.kernels.attention import packed_backward as backward
from greater_fast.kernels.attention.packed_tiles import key_tiling, query_tiling
from tests.kernels.compiling.compile_case import CompileCase

TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
INTS = ("tiles", "starts", "prefix_sizes", "tables")
KERNELS = {
    op.packed_attention_kernel: query_tiling,
    backward.query_gradient_kernel: query_tiling,
    backward.key_gradient_kernel: key_tiling,
}


def case(kernel: Any, head_size: int, dtype: torch.dtype, group: int, has_cap: bool) -> CompileCase:
    """A kernel with the sizes of its launch."""
    sizes: dict[str, Any] = KERNELS[kernel](head_size, group, dtype)
    options = {name: sizes.pop(name) for name in ("num_warps", "num_stages")}
    sizes |= {"HAS_CAP": has_cap, "BLOCK_SIZE": 16}

    def kind(name: str) -> str:
        if name in sizes:
            return "constexpr"
        if name in INTS:
            return "*i32"
        if name in ("table_width", "window"):  # never specialised: they differ by call and layer
            return "i32"
        if "stride" in name:
            return "i32:16"
        if name in ("scale", "soft_cap"):
            return "fp32"
        return "*fp32" if name in ("log_sums", "deltas") else "*" + TYPES[dtype]

    odd = kernel is op.packed_attention_kernel and group & (group - 1)
    spills = {"100": 8} if odd else {}  # none if loads did not overlap with products
    if head_size > 256 and kernel is not op.packed_attention_kernel:
        spills = {"gfx942": 280}  # registers, of a card on which nothing of this was ever run
    return CompileCase(
        name=f"{kernel.fn.__name__} {TYPES[dtype]} {head_size} group{group} cap{has_cap:d}",
        kernel=kernel,
        signature={name: kind(name) for name in kernel.arg_names},
        constants={name: value for name, value in sizes.items() if name in kernel.arg_names},
        spills=spills,
        **options,
    )


CASES = tuple(
    case(kernel, *sizes)
    for kernel in KERNELS
    for sizes in (
        (128, torch.bfloat16, 4, True),
        (256, torch.bfloat16, 8, True),
        (80, torch.float16, 7, False),
        (256, torch.float32, 1, True),
        (512, torch.bfloat16, 8, False),
    )
)
