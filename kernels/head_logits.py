"""Tiles of an LM head's logits in Triton: `cap tanh(scale h W / cap)`, or `scale h W`."""

import torch
import triton
import triton.language as tl

from greater_fast.kernels.tiles import row_products


def block_sizes(dtype: torch.dtype) -> dict[str, int]:
    """Tile sizes and launch options, from the type of the weights alone."""
    narrow = dtype == torch.float32
    return {
        "BLOCK_R": 128,
        "BLOCK_V": 64 if narrow else 128,
        "BLOCK_D": 32 if narrow else 64,
        "num_warps": 8,
        "num_stages": 3,
    }


@triton.jit
def head_logits(
    hidden,
    rows,
    weight,
    token,
    V,
    D,
    weight_stride,
    scale,
    cap,
    CAPPED: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Logits [rows, token]; 0 for a token past the vocabulary."""
    tokens = tl.where(token < V, token, -1).to(tl.int64)
    products = row_products(hidden, rows, D, weight, tokens, weight_stride, D, PRECISION, BLOCK_D)
    logits = products * scale
    if CAPPED:
        power = tl.exp(-2.0 * tl.abs(logits / cap))
        capped = cap * (1.0 - power) / (1.0 + power)
        logits = tl.where(logits < 0, -capped, capped)
    return logits
