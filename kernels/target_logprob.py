"""Log-probabilities of given tokens in Triton, straight from hidden states and the LM head.

    logits = cap tanh(scale h W / cap)        logprob = logit_target / T - log sum exp(logits / T)

Logits exist for a tile at a time. Programs take parts of the vocabulary and keep the maximum, the
sum of exponentials, the argmax and the target's logit of each row; a second pass merges the parts.
The backward pass makes the logits again, a chunk of the vocabulary at a time. Every size is fixed
by the vocabulary and the type alone, so a row's result does not depend on the other rows.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from greater_fast.kernels.head_logits import block_sizes, head_logits
from greater_fast.kernels.reference import Head
from greater_fast.kernels.target_logprob_backward import Rows, hidden_gradients
from greater_fast.kernels.tiles import PRECISION

TILES = 4  # of the vocabulary, to a program


def target_logprob(
    hidden: torch.Tensor, targets: torch.Tensor, head: Head, temperatures: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [R] float32 and argmax [R] int64; see `reference.target_logprob`.

    `temperatures` [R] float32 and `targets` [R] int64 are contiguous.
    """
    logprobs, argmax = _TargetLogprob.apply(hidden.contiguous(), targets, temperatures, head)
    return logprobs, argmax


class _TargetLogprob(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        targets: torch.Tensor,
        temperatures: torch.Tensor,
        head: Head,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.cuda.device_of(hidden):
            logprobs, argmax, rows = _forward(hidden, targets, temperatures, head)
        ctx.save_for_backward(*rows)
        ctx.head = head
        ctx.mark_non_differentiable(argmax)
        return logprobs, argmax

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[torch.Tensor, None, None, None]:
        rows, head = Rows(*ctx.saved_tensors), ctx.head
        with torch.cuda.device_of(grad):
            gradients = hidden_gradients(rows, head)
        known = (rows.targets >= 0) & (rows.targets < len(head.weight))
        factors = (grad * head.scale / rows.temperatures).where(known, 0.0)
        return (gradients * factors[:, None]).to(rows.hidden.dtype), None, None, None


def _forward(
    hidden: torch.Tensor, targets: torch.Tensor, temperatures: torch.Tensor, head: Head
) -> tuple[torch.Tensor, torch.Tensor, Rows]:
    (num_rows, width), num_tokens = hidden.shape, len(head.weight)
    blocks = block_sizes(hidden.dtype)
    num_parts = triton.cdiv(num_tokens, TILES * blocks["BLOCK_V"])
    floats = hidden.new_empty(3, num_rows, num_parts, dtype=torch.float32)
    part_argmax = torch.empty(num_rows, num_parts, dtype=torch.int32, device=hidden.device)
    logprobs, peaks, log_sums = (hidden.new_empty(num_rows, dtype=torch.float32) for _ in range(3))
    argmax = torch.empty(num_rows, dtype=torch.int64, device=hidden.device)
    if num_rows:
        partial_logsumexp_kernel[(triton.cdiv(num_rows, blocks["BLOCK_R"]), num_parts)](
            hidden,
            head.weight,
            targets,
            temperatures,
            *floats,
            part_argmax,
            num_rows,
            num_tokens,
            width,
            head.weight.stride(0),
            head.scale,
            head.soft_cap,
            CAPPED=head.soft_cap > 0,
            TILES=TILES,
            PRECISION=PRECISION,
            **blocks,
        )
        merge_logsumexp_kernel[(num_rows,)](
            targets,
            temperatures,
            *floats,
            part_argmax,
            logprobs,
            peaks,
            log_sums,
            argmax,
            num_tokens,
            num_parts,
            BLOCK_S=triton.next_power_of_2(num_parts),
        )
    return logprobs, argmax, Rows(hidden, targets, temperatures, peaks, log_sums)


@triton.jit
def partial_logsumexp_kernel(
    hidden,
    weight,
    targets,
    temperatures,
    peaks,
    sums,
    aims,
    argmax,
    R,
    V,
    D,
    weight_stride,
    scale,
    cap,
    CAPPED: tl.constexpr,
    TILES: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A row's highest logit in a part of the vocabulary, its token, and what the merge needs.

    That is the sum of `exp((logit - highest) / T)`, and the target's logit, 0 where it is not here.
    Grid: blocks of rows, parts. Blocks of rows run side by side: beyond the first they find the
    weights in the cache.
    """
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    rows = tl.where(row < R, row, -1).to(tl.int64)
    target = tl.load(targets + row, mask=row < R, other=-1)
    inverse = 1.0 / tl.load(temperatures + row, mask=row < R, other=1.0)
    peak = tl.full([BLOCK_R], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_R], tl.float32)
    aim = tl.zeros([BLOCK_R], tl.float32)
    best = tl.zeros([BLOCK_R], tl.int32)
    first = tl.program_id(1) * TILES
    for tile in range(first, tl.minimum(first + TILES, tl.cdiv(V, BLOCK_V))):
        token = tile * BLOCK_V + tl.arange(0, BLOCK_V)
        logits = head_logits(
            hidden, rows, weight, token, V, D, weight_stride, scale, cap, CAPPED, PRECISION, BLOCK_D
        )
        logits = tl.where((token < V)[None, :], logits, float("-inf"))
        aim += tl.sum(tl.where(token[None, :] == target[:, None], logits, 0.0), 1)
        highest = tl.max(logits, 1)
        lowest_id = tl.min(tl.where(logits == highest[:, None], token[None, :], V - 1), 1)
        best = tl.where(highest > peak, lowest_id, best)
        highest = tl.maximum(peak, highest)
        base = tl.where(highest == float("-inf"), 0.0, highest)  # no token of any probability yet
        powers = tl.exp((logits - base[:, None]) * inverse[:, None])
        total = total * tl.exp((peak - base) * inverse) + tl.sum(powers, 1)
        peak = highest
    at = rows * tl.num_programs(1) + tl.program_id(1)
    tl.store(peaks + at, peak, mask=row < R)
    tl.store(sums + at, total, mask=row < R)
    tl.store(aims + at, aim, mask=row < R)
    tl.store(argmax + at, best, mask=row < R)


@triton.jit
def merge_logsumexp_kernel(
    targets,
    temperatures,
    part_peaks,
    part_sums,
    part_aims,
    part_argmax,
    logprobs,
    peaks,
    log_sums,
    argmax,
    V,
    S,
    BLOCK_S: tl.constexpr,
):
    """A row's S parts as one; grid: one program a row. No log-probability of an unknown target."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, BLOCK_S)
    at = row * S + part
    part_peak = tl.load(part_peaks + at, mask=part < S, other=float("-inf"))
    part_sum = tl.load(part_sums + at, mask=part < S, other=0.0)
    aim = tl.sum(tl.load(part_aims + at, mask=part < S, other=0.0), 0)
    token = tl.load(part_argmax + at, mask=part < S, other=V - 1)
    target = tl.load(targets + row)
    inverse = 1.0 / tl.load(temperatures + row)
    peak = tl.max(part_peak, 0)
    log_sum = tl.log(tl.sum(part_sum * tl.exp((part_peak - peak) * inverse), 0))
    logprob = (aim - peak) * inverse - log_sum
    tl.store(logprobs + row, tl.where((target >= 0) & (target < V), logprob, float("-inf")))
    tl.store(peaks + row, peak)
    tl.store(log_sums + row, log_sum)
    tl.store(argmax + row, tl.min(tl.where(part_peak == peak, token, V - 1), 0).to(tl.int64))
