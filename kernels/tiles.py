"""What the kernels share: products of rows, how float32 is multiplied here, and tanh."""

import torch
import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
PRECISION = "ieee" if INTERPRETED.value or torch.version.hip else "tf32x3"


@triton.jit
def row_products(
    a,
    a_rows,
    a_stride,
    b,
    b_rows,
    b_stride,
    D,
    PRECISION: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """`a[i] · b[j]` for rows i, j (int64) of two matrices of width D and one type, in float32.

    A row below 0 is not read and counts as zeros.
    """
    d = tl.arange(0, BLOCK_D)
    a_at = a + a_rows[:, None] * a_stride + d[None, :]
    b_at = b + b_rows[None, :] * b_stride + d[:, None]
    products = tl.zeros([a_rows.shape[0], b_rows.shape[0]], tl.float32)
    for start in range(0, D, BLOCK_D):
        inside = start + d < D
        x = tl.load(a_at + start, mask=(a_rows >= 0)[:, None] & inside[None, :], other=0.0)
        y = tl.load(b_at + start, mask=(b_rows >= 0)[None, :] & inside[:, None], other=0.0)
        products = add_product(products, x, y, PRECISION)
    return products


@triton.jit
def add_product(products, x, y, PRECISION: tl.constexpr):
    """`products + x y` in float32."""
    if INTERPRETED:  # the interpreter multiplies the bits of bfloat16 as integers
        x = x.to(tl.float32)
        y = y.to(tl.float32)
    return tl.dot(x, y, products, input_precision=PRECISION)


@triton.jit
def tanh(x):
    """By its series near 0, where the other form cancels; 1 in float32 long before x is 40.

    NaN stays NaN, which a minimum on a GPU would drop.
    """
    square = x * x
    near = x * (1 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315))))
    far = 1 - 2 / (tl.exp(tl.where(x > 40.0, 80.0, 2 * x)) + 1)
    return tl.where(square < 0.04, near, far)
