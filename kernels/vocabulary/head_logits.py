"""Tiles of an LM head's logits in Triton, `cap tanh(scale h W / cap)` or `scale h W`, and of noise.

The noise is that of `noise.gumbel_noise`: its uniform numbers are the same bits, its logarithms the
device's, so that it may differ in the last bits.
"""

import torch
import triton
import triton.language as tl

from greater_fast.kernels.tiles import row_products
from greater_fast.kernels.vocabulary import noise

ODD_64 = tl.constexpr(noise.ODD_64)
FIRST_ODD, SECOND_ODD = (tl.constexpr(odd) for odd in noise.ODD_32)


def block_sizes(dtype: torch.dtype, sampled: bool = False) -> dict[str, int]:
    """Tile sizes and launch options, from the type of the weights, and whether noise is added.

    Beside it a wider tile of logits finds no room in the registers.
    """
    wide = dtype == torch.float32
    return {
        "BLOCK_R": 128,
        "BLOCK_V": 64 if wide or sampled else 128,
        "BLOCK_D": 32 if wide else 64,
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


@triton.jit
def row_words(keys, places):
    """What a row's noise hangs on, two words [R] int32, of its key and its place [R] int64."""
    words = mix(mix(keys) + places)
    return words.to(tl.int32), (words >> 32).to(tl.int32)


@triton.jit
def gumbel_noise(first_words, second_words, token):
    """Gumbel noise [rows, token] float32."""
    return gumbel_of(noise_bits(first_words, second_words, token))


@triton.jit
def gumbel_of(bits):
    """Gumbel noise of uniform numbers of 31 bits."""
    uniform = (bits.to(tl.float32) + 0.5) * 2.0**-31
    uniform = tl.where(uniform > 1.0 - 2.0**-24, 1.0 - 2.0**-24, uniform)
    # log1p(-u): what 1 - u was rounded by is made up for.
    rest = 1.0 - uniform
    is_one = rest == 1.0
    slope = tl.log(rest) / tl.where(is_one, 1.0, rest - 1.0)
    return -tl.log(uniform * tl.where(is_one, 1.0, slope))


@triton.jit
def noise_bits(first_words, second_words, token):
    """The uniform numbers behind the noise: 31 bits [rows, token] int32."""
    bits = mix(token.to(tl.int64)).to(tl.int32)[None, :] ^ first_words[:, None]
    bits = tl.mul(bits, FIRST_ODD, sanitize_overflow=False)
    bits ^= (bits >> 15) & 0x1FFFF
    bits ^= second_words[:, None]
    bits = tl.mul(bits, SECOND_ODD, sanitize_overflow=False)
    bits ^= (bits >> 16) & 0xFFFF
    return bits & 0x7FFFFFFF


@triton.jit
def mix(x):
    """The bijection of int64 that `noise` is made of."""
    x += ODD_64
    for _ in tl.static_range(3):
        x = (x ^ ((x >> 32) & 0xFFFFFFFF)) * ODD_64
    return x ^ ((x >> 32) & 0xFFFFFFFF)
