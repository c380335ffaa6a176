"""Scores of replacement tokens in Triton, `scale E g`: of a list, or the best of the vocabulary.

An embedding of 16 bits is multiplied in its own type by each gradient in two parts, its rounded
value and what that leaves: 16 bits of significand with bfloat16, 22 with float16. The parts are two
rows of one matrix product, whose smallest tile has 16 rows anyway.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from greater_fast.kernels.tiles import PRECISION, row_products
from greater_fast.kernels.vocabulary.top_k import keep_best, merge, no_keys, to_keys


def candidate_scores(
    embeddings: torch.Tensor, gradients: torch.Tensor, ids: torch.Tensor, scale: float
) -> torch.Tensor:
    """Scores [G, K] float32 of the tokens `ids` [K] int64; see `reference.candidate_scores`."""
    (num_rows, width), num_ids = gradients.shape, len(ids)
    scores = torch.empty(num_rows, num_ids, dtype=torch.float32, device=embeddings.device)
    if not scores.numel():
        return scores
    rows = _gradient_rows(gradients, embeddings.dtype, scale)
    blocks = block_sizes(num_rows, embeddings.dtype) | {"BLOCK_V": 32}
    grid = (triton.cdiv(num_rows, blocks["BLOCK_G"]), triton.cdiv(num_ids, blocks["BLOCK_V"]))
    with torch.cuda.device_of(embeddings):
        candidate_scores_kernel[grid](
            rows.parts,
            rows.factors,
            embeddings,
            ids,
            scores,
            num_rows,
            num_ids,
            width,
            embeddings.stride(0),
            PRECISION=PRECISION,
            **blocks,
        )
    return scores


def vocabulary_top_k(
    embeddings: torch.Tensor, gradients: torch.Tensor, allowed: torch.Tensor, k: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k lowest scores a row, ids and scores [G, k]; see `reference.vocabulary_top_k`.

    Each program reads tiles of E once and keeps the k best of them for each gradient, in a scratch
    of [G, programs, k] keys; a second pass merges these. No two tokens have the same key, so the
    result depends neither on the number of programs nor on their order.
    """
    (num_rows, width), device = gradients.shape, embeddings.device
    blocks = block_sizes(num_rows, embeddings.dtype) | {"BLOCK_V": 128}
    num_programs = min(triton.cdiv(len(embeddings), blocks["BLOCK_V"]), _num_programs(device))
    keys = torch.empty(num_rows, num_programs, k, dtype=torch.int64, device=device)
    if not num_rows:
        return keys[:, 0], keys[:, 0].float()
    rows = _gradient_rows(gradients, embeddings.dtype, scale)
    with torch.cuda.device_of(embeddings):
        vocabulary_top_k_kernel[(triton.cdiv(num_rows, blocks["BLOCK_G"]), num_programs)](
            rows.parts,
            rows.factors,
            embeddings,
            allowed.view(torch.uint8),
            keys,
            num_rows,
            len(embeddings),
            width,
            embeddings.stride(0),
            K=k,
            BLOCK_K=triton.next_power_of_2(k),
            PRECISION=PRECISION,
            **blocks,
        )
        return merge(keys.flatten(1), k)


def block_sizes(num_rows: int, dtype: torch.dtype) -> dict[str, int]:
    """Tile sizes and launch options, from the number of gradients and the type of E alone.

    They keep every tile in the registers and in 64 KiB of shared memory; see the compiled cases.
    """
    parts, most = (1, 16) if dtype == torch.float32 else (2, 64)
    rows = min(most, max(16 // parts, triton.next_power_of_2(num_rows)))
    wide = rows >= 32
    return {
        "PARTS": parts,
        "BLOCK_G": rows,
        "BLOCK_D": 32 if wide or dtype == torch.float32 else 64,
        "num_warps": 8 if wide else 4,
        "num_stages": 4,
    }


class _GradientRows(NamedTuple):
    """Gradients [G * PARTS, D] in E's type, and the factor [G] float32 of each one's products."""

    parts: torch.Tensor
    factors: torch.Tensor


def _gradient_rows(gradients: torch.Tensor, dtype: torch.dtype, scale: float) -> _GradientRows:
    gradients = gradients.float()
    factors = torch.full((len(gradients),), scale, dtype=torch.float32, device=gradients.device)
    if dtype == torch.float32:
        return _GradientRows(gradients.contiguous(), factors)
    if dtype == torch.float16:  # into its range, by a power of two
        exponents = torch.frexp(gradients.abs().amax(1)).exponent.clamp(min=-125)
        gradients = torch.ldexp(gradients, -exponents[:, None])
        factors = torch.ldexp(factors, exponents)
    high = gradients.to(dtype)
    parts = torch.stack((high, (gradients - high).to(dtype)), 1)  # [G, 2, D]
    return _GradientRows(parts.flatten(0, 1), factors)


def _num_programs(device: torch.device) -> int:
    if device.type == "cpu":  # the interpreter runs one after the other
        return 3
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit
def candidate_scores_kernel(
    parts,
    factors,
    embeddings,
    ids,
    scores,
    G,
    K,
    D,
    row_stride,
    PRECISION: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """`scores[g, k] = factors[g] (gradients[g] · embeddings[ids[k]])`; grid: blocks of g, of k."""
    row = tl.program_id(0) * BLOCK_G + tl.arange(0, BLOCK_G)
    column = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    tokens = tl.load(ids + column, mask=column < K, other=-1)
    found = _tile_scores(
        parts, factors, embeddings, tokens, G, D, row_stride, PRECISION, PARTS, BLOCK_G, BLOCK_D
    )
    at = scores + row.to(tl.int64)[:, None] * K + column[None, :]
    tl.store(at, found, mask=(row < G)[:, None] & (column < K)[None, :])


@triton.jit
def vocabulary_top_k_kernel(
    parts,
    factors,
    embeddings,
    allowed,
    keys,
    G,
    V,
    D,
    row_stride,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """`keys[g, p]`: the K best tokens of program p's tiles for each gradient, in no order.

    Grid: blocks of g, programs p. Rows of E that are not allowed are not read. Blocks of g run side
    by side, so that beyond the first they find E in the cache.
    """
    row = tl.program_id(0) * BLOCK_G + tl.arange(0, BLOCK_G)
    slot = tl.arange(0, BLOCK_K)
    best = tl.zeros([BLOCK_G, BLOCK_K], tl.int64) + no_keys(slot, K)[None, :]
    for tile in range(tl.program_id(1), tl.cdiv(V, BLOCK_V), tl.num_programs(1)):
        token = tile * BLOCK_V + tl.arange(0, BLOCK_V)
        taken = tl.load(allowed + token, mask=token < V, other=0) != 0
        tokens = tl.where(taken, token, -1).to(tl.int64)
        found = _tile_scores(
            parts, factors, embeddings, tokens, G, D, row_stride, PRECISION, PARTS, BLOCK_G, BLOCK_D
        )
        best = keep_best(best, to_keys(found, tokens, (row < G)[:, None] & taken[None, :]))
    at = (row.to(tl.int64)[:, None] * tl.num_programs(1) + tl.program_id(1)) * K + slot[None, :]
    tl.store(keys + at, best, mask=(row < G)[:, None] & (slot < K)[None, :])


@triton.jit
def _tile_scores(
    parts,
    factors,
    embeddings,
    tokens,
    G,
    D,
    row_stride,
    PRECISION: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Scores [BLOCK_G, tokens] of this program's gradients; 0 for a token below 0."""
    first = tl.program_id(0) * BLOCK_G
    part = first * PARTS + tl.arange(0, BLOCK_G * PARTS)
    rows = tl.where(part < G * PARTS, part, -1).to(tl.int64)
    products = row_products(parts, rows, D, embeddings, tokens, row_stride, D, PRECISION, BLOCK_D)
    if PARTS == 2:
        pairs = tl.reshape(products, [BLOCK_G, 2, tokens.shape[0]])
        high, low = tl.split(tl.permute(pairs, [0, 2, 1]))
        products = high + low
    row = first + tl.arange(0, BLOCK_G)
    return products * tl.load(factors + row, mask=row < G, other=0.0)[:, None]
