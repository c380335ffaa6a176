"""Log-probabilities of given tokens in Triton, straight from hidden states and the LM head.

    logits = cap tanh(scale h W / cap)        logprob = logit_target / T - log sum exp(logits / T)

Logits exist for a tile at a time. Programs take parts of the vocabulary and keep the maximum, the
sum of exponentials, the argmax and the target's logit of each row, and the argmax with noise where
rows are sampled; a second pass merges the parts. The backward pass makes the logits again, a chunk
of the vocabulary at a time. Every size is fixed by the vocabulary and the type alone, so a row's
result does not depend on the other rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from greater_fast.kernels.reference import Head
from greater_fast.kernels.tiles import PRECISION
from greater_fast.kernels.vocabulary.head_logits import (
    block_sizes,
    gumbel_noise,
    head_logits,
    row_words,
)
from greater_fast.kernels.vocabulary.noise import Noise, noise_keys
from greater_fast.kernels.vocabulary.target_logprob_backward import Rows, hidden_gradients

PART = 512  # tokens of the vocabulary, to a program


def target_logprob(
    hidden: torch.Tensor, targets: torch.Tensor, head: Head, temperatures: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [R] float32 and argmax [R] int64; see `reference.target_logprob`.

    `temperatures` [R] float32 and `targets` [R] int64 are contiguous.
    """
    logprobs, argmax = _TargetLogprob.apply(hidden.contiguous(), targets, temperatures, head)
    return logprobs, argmax


def target_logprob_and_sample(
    hidden: torch.Tensor,
    targets: torch.Tensor,
    head: Head,
    temperatures: torch.Tensor,
    noise: Noise | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The same, and sampled tokens [R] int64; see `reference.target_logprob_and_sample`.

    One reading of the LM head, by two launches that neither wait for a GPU nor allocate in it more
    than a few numbers a row and part.
    """
    with torch.cuda.device_of(hidden):
        found = _forward(hidden.contiguous(), targets, temperatures, head, noise)
    return found.logprobs, found.argmax, found.sampled


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
            found = _forward(hidden, targets, temperatures, head)
        ctx.save_for_backward(hidden, targets, temperatures, found.peaks, found.log_sums)
        ctx.head = head
        ctx.mark_non_differentiable(found.argmax)
        return found.logprobs, found.argmax

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[torch.Tensor, None, None, None]:
        rows, head = Rows(*ctx.saved_tensors), ctx.head
        with torch.cuda.device_of(grad):
            gradients = hidden_gradients(rows, head)
        known = (rows.targets >= 0) & (rows.targets < len(head.weight))
        factors = (grad * head.scale / rows.temperatures).where(known, 0.0)
        return (gradients * factors[:, None]).to(rows.hidden.dtype), None, None, None


class _Found(NamedTuple):
    """Of R rows: int64 tokens, the rest float32; `peaks` and `log_sums` as in `Rows`."""

    logprobs: torch.Tensor
    peaks: torch.Tensor
    log_sums: torch.Tensor
    argmax: torch.Tensor
    sampled: torch.Tensor | None


def _forward(
    hidden: torch.Tensor,
    targets: torch.Tensor,
    temperatures: torch.Tensor,
    head: Head,
    noise: Noise | None = None,
) -> _Found:
    (num_rows, width), num_tokens = hidden.shape, len(head.weight)
    blocks = block_sizes(hidden.dtype, sampled=noise is not None)
    num_parts = triton.cdiv(num_tokens, PART)

    def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=hidden.device)

    floats = [empty(num_rows, num_parts, dtype=torch.float32) for _ in range(3)]
    part_argmax = empty(num_rows, num_parts, dtype=torch.int32)
    logprobs, peaks, log_sums = (empty(num_rows, dtype=torch.float32) for _ in range(3))
    argmax = empty(num_rows, dtype=torch.int64)
    keys = places = part_noisy_peaks = part_sampled = sampled = None
    if noise:
        keys, places = noise_keys(noise.seed, noise.examples), noise.places.contiguous()
        part_noisy_peaks = empty(num_rows, num_parts, dtype=torch.float32)
        part_sampled, sampled = torch.empty_like(part_argmax), torch.empty_like(argmax)
    found = _Found(logprobs, peaks, log_sums, argmax, sampled)
    if num_rows:
        partial_logsumexp_kernel[(triton.cdiv(num_rows, blocks["BLOCK_R"]), num_parts)](
            hidden,
            head.weight,
            targets,
            temperatures,
            keys,
            places,
            *floats,
            part_argmax,
            part_noisy_peaks,
            part_sampled,
            num_rows,
            num_tokens,
            width,
            head.weight.stride(0),
            head.scale,
            head.soft_cap,
            noise.temperature if noise else 0.0,
            CAPPED=head.soft_cap > 0,
            SAMPLED=noise is not None,
            TILES=PART // blocks["BLOCK_V"],
            PRECISION=PRECISION,
            **blocks,
        )
        merge_logsumexp_kernel[(num_rows,)](
            targets,
            temperatures,
            places,
            *floats,
            part_argmax,
            part_noisy_peaks,
            part_sampled,
            *found,
            num_tokens,
            num_parts,
            SAMPLED=noise is not None,
            BLOCK_S=triton.next_power_of_2(num_parts),
        )
    return found


@triton.jit(do_not_specialize=["R"])
def partial_logsumexp_kernel(
    hidden,
    weight,
    targets,
    temperatures,
    keys,
    places,
    peaks,
    sums,
    aims,
    argmax,
    noisy_peaks,
    sampled,
    R,
    V,
    D,
    weight_stride,
    scale,
    cap,
    heat,
    CAPPED: tl.constexpr,
    SAMPLED: tl.constexpr,
    TILES: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A row's highest logit in a part of the vocabulary, its token, and what the merge needs.

    That is the sum of `exp((logit - highest) / T)`, and the target's logit, 0 where it is not here.
    Where rows are sampled, also the highest of `logit + heat noise`, and its token. Grid: blocks of
    rows, parts. Blocks of rows run side by side: beyond the first they find the weights in the
    cache.
    """
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    rows = tl.where(row < R, row, -1).to(tl.int64)
    target = tl.load(targets + row, mask=row < R, other=-1)
    inverse = 1.0 / tl.load(temperatures + row, mask=row < R, other=1.0)
    peak = tl.full([BLOCK_R], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_R], tl.float32)
    aim = tl.zeros([BLOCK_R], tl.float32)
    best = tl.zeros([BLOCK_R], tl.int32)
    if SAMPLED:
        key = tl.load(keys + row, mask=row < R, other=0)
        first_words, second_words = row_words(key, tl.load(places + row, mask=row < R, other=-1))
        noisy_peak = tl.full([BLOCK_R], float("-inf"), tl.float32)
        noisy_best = tl.zeros([BLOCK_R], tl.int32)
    first = tl.program_id(1) * TILES
    for tile in range(first, tl.minimum(first + TILES, tl.cdiv(V, BLOCK_V))):
        token = tile * BLOCK_V + tl.arange(0, BLOCK_V)
        logits = head_logits(
            hidden, rows, weight, token, V, D, weight_stride, scale, cap, CAPPED, PRECISION, BLOCK_D
        )
        logits = tl.where((token < V)[None, :], logits, float("-inf"))
        aim += tl.sum(tl.where(token[None, :] == target[:, None], logits, 0.0), 1)
        highest, best = higher(peak, best, logits, token, V)
        base = tl.where(highest == float("-inf"), 0.0, highest)  # no token of any probability yet
        powers = tl.exp((logits - base[:, None]) * inverse[:, None])
        total = total * tl.exp((peak - base) * inverse) + tl.sum(powers, 1)
        peak = highest
        if SAMPLED:
            noisy = logits + heat * gumbel_noise(first_words, second_words, token)
            noisy_peak, noisy_best = higher(noisy_peak, noisy_best, noisy, token, V)
    at = rows * tl.num_programs(1) + tl.program_id(1)
    tl.store(peaks + at, peak, mask=row < R)
    tl.store(sums + at, total, mask=row < R)
    tl.store(aims + at, aim, mask=row < R)
    tl.store(argmax + at, best, mask=row < R)
    if SAMPLED:
        tl.store(noisy_peaks + at, noisy_peak, mask=row < R)
        tl.store(sampled + at, noisy_best, mask=row < R)


@triton.jit
def higher(peak, best, logits, token, V):
    """The higher of each row's `peak` and highest logit, and its token: of equals the lowest."""
    highest = tl.max(logits, 1)
    lowest_id = tl.min(tl.where(logits == highest[:, None], token[None, :], V - 1), 1)
    return tl.maximum(peak, highest), tl.where(highest > peak, lowest_id, best)


@triton.jit
def merge_logsumexp_kernel(
    targets,
    temperatures,
    places,
    part_peaks,
    part_sums,
    part_aims,
    part_argmax,
    part_noisy_peaks,
    part_sampled,
    logprobs,
    peaks,
    log_sums,
    argmax,
    sampled,
    V,
    S,
    SAMPLED: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """A row's S parts as one; grid: one program a row. An unknown target has probability 0."""
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
    unknown = float("-inf") + log_sum * 0  # NaN where logits are not finite
    tl.store(logprobs + row, tl.where((target >= 0) & (target < V), logprob, unknown))
    tl.store(peaks + row, peak)
    tl.store(log_sums + row, log_sum)
    tl.store(argmax + row, tl.min(tl.where(part_peak == peak, token, V - 1), 0).to(tl.int64))
    if SAMPLED:
        noisy = tl.load(part_noisy_peaks + at, mask=part < S, other=float("-inf"))
        token = tl.load(part_sampled + at, mask=part < S, other=V - 1)
        token = tl.min(tl.where(noisy == tl.max(noisy, 0), token, V - 1), 0)
        token = tl.where(tl.load(places + row) < 0, 0, token)
        tl.store(sampled + row, token.to(tl.int64))
