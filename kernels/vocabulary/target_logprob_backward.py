"""The gradient of target log-probabilities in Triton, with the logits made again, never stored.

For a chunk of the vocabulary at a time: what each logit's gradient is, in the type of the weights,
then its product with the same rows of the LM head, which the cache still holds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from greater_fast.kernels.reference import Head
from greater_fast.kernels.tiles import PRECISION, add_product
from greater_fast.kernels.vocabulary.head_logits import block_sizes, head_logits

CHUNK = 4096  # tokens of the vocabulary: 32 MiB of an 8B model's LM head
CHUNK_ROWS = 4096


class Rows(NamedTuple):
    """What the backward pass needs of R rows.

    `peaks` [R] float32 are the highest logits, `log_sums` [R] are log sum exp((logits - peak) / T).
    """

    hidden: torch.Tensor
    targets: torch.Tensor
    temperatures: torch.Tensor
    peaks: torch.Tensor
    log_sums: torch.Tensor


def hidden_gradients(rows: Rows, head: Head) -> torch.Tensor:
    """`T / scale` times the gradient of each row's log-probability by its own hidden state.

    [R, D] float32; of no meaning where the target is not in the vocabulary.
    """
    parts = zip(*(tensor.split(CHUNK_ROWS) for tensor in rows), strict=True)
    return torch.cat([_gradients(Rows(*part), head) for part in parts])


def _gradients(rows: Rows, head: Head) -> torch.Tensor:
    (num_rows, width), num_tokens = rows.hidden.shape, len(head.weight)
    gradients = torch.zeros(num_rows, width, dtype=torch.float32, device=rows.hidden.device)
    if not num_rows:
        return gradients
    blocks = block_sizes(rows.hidden.dtype)
    row_blocks = triton.cdiv(num_rows, blocks["BLOCK_R"])
    coefficients = rows.hidden.new_empty(num_rows, CHUNK)
    for first in range(0, num_tokens, CHUNK):
        columns = min(CHUNK, num_tokens - first)
        coefficients_kernel[(row_blocks, triton.cdiv(columns, blocks["BLOCK_V"]))](
            *rows,
            head.weight,
            coefficients,
            num_rows,
            num_tokens,
            width,
            head.weight.stride(0),
            first,
            head.scale,
            head.soft_cap,
            CAPPED=head.soft_cap > 0,
            CHUNK=CHUNK,
            PRECISION=PRECISION,
            **blocks,
        )
        add_products_kernel[(row_blocks, triton.cdiv(width, blocks["BLOCK_V"]))](
            coefficients,
            head.weight,
            gradients,
            num_rows,
            width,
            head.weight.stride(0),
            first,
            columns,
            CHUNK=CHUNK,
            PRECISION=PRECISION,
            **blocks,
        )
    return gradients


@triton.jit(do_not_specialize=["R"])
def coefficients_kernel(
    hidden,
    targets,
    temperatures,
    peaks,
    log_sums,
    weight,
    coefficients,
    R,
    V,
    D,
    weight_stride,
    first,
    scale,
    cap,
    CAPPED: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """`coefficients[r, v]`: T times the derivative of row r's log-probability by logit v, uncapped.

    `([v is the target] - softmax(logits / T)) (1 - (logit / cap)²)` of the tokens from `first` on,
    0 for those past the vocabulary. Grid: blocks of r, blocks of v.
    """
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    rows = tl.where(row < R, row, -1).to(tl.int64)
    token = first + column
    target = tl.load(targets + row, mask=row < R, other=-1)
    inverse = 1.0 / tl.load(temperatures + row, mask=row < R, other=1.0)
    peak = tl.load(peaks + row, mask=row < R, other=0.0)
    log_sum = tl.load(log_sums + row, mask=row < R, other=0.0)
    logits = head_logits(
        hidden, rows, weight, token, V, D, weight_stride, scale, cap, CAPPED, PRECISION, BLOCK_D
    )
    powers = (logits - peak[:, None]) * inverse[:, None] - log_sum[:, None]
    found = (token[None, :] == target[:, None]).to(tl.float32) - tl.exp(powers)
    if CAPPED:
        found *= 1.0 - (logits / cap) * (logits / cap)
    found = tl.where((token < V)[None, :], found, 0.0)
    at = coefficients + row.to(tl.int64)[:, None] * CHUNK + column[None, :]
    tl.store(at, found.to(coefficients.dtype.element_ty), mask=(row < R)[:, None])


@triton.jit(do_not_specialize=["R"])
def add_products_kernel(
    coefficients,
    weight,
    gradients,
    R,
    D,
    weight_stride,
    first,
    columns,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """`gradients += coefficients[:, :columns] @ weight[first : first + columns]`.

    Grid: blocks of rows, blocks of BLOCK_V of the width; BLOCK_D tokens at a time.
    """
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    d = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    column = tl.arange(0, BLOCK_D)
    rows = row.to(tl.int64)[:, None]
    tokens = (first + column).to(tl.int64)[:, None]
    inside = (row < R)[:, None] & (d < D)[None, :]
    at = gradients + rows * D + d[None, :]
    total = tl.load(at, mask=inside, other=0.0)
    for start in range(0, columns, BLOCK_D):
        known = start + column < columns
        x = tl.load(
            coefficients + rows * CHUNK + (start + column)[None, :],
            mask=(row < R)[:, None] & known[None, :],
            other=0.0,
        )
        y = tl.load(
            weight + (start + tokens) * weight_stride + d[None, :],
            mask=known[:, None] & (d < D)[None, :],
            other=0.0,
        )
        total = add_product(total, x, y, PRECISION)
    tl.store(at, total, mask=inside)
