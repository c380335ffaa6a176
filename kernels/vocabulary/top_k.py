"""The lowest of many scores in Triton, as sets of distinct keys that can be merged in any order."""

import torch
import triton
import triton.language as tl

_EMPTY = tl.constexpr(0x7FFF_FFFF << 32)  # keys from here on stand for no token
_LAST = tl.constexpr((1 << 63) - 1)
_UNUSED = tl.constexpr(-(1 << 63))  # the key of a slot that is there for the shape alone
BLOCK_N = 1024


def merge(keys: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [G, k] int64 and scores [G, k] float32 of the lowest `keys` [G, N], in order.

    Where there are fewer tokens, -1 and inf fill up.
    """
    ids = torch.empty(len(keys), k, dtype=torch.int64, device=keys.device)
    scores = torch.empty(len(keys), k, dtype=torch.float32, device=keys.device)
    merge_kernel[(len(keys),)](
        keys,
        ids,
        scores,
        keys.shape[1],
        K=k,
        BLOCK_K=triton.next_power_of_2(k),
        BLOCK_N=BLOCK_N,
    )
    return ids, scores


@triton.jit
def merge_kernel(
    keys,
    ids,
    scores,
    N,
    K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The K lowest of `keys[g]` [N] in order, as ids and scores; grid: one program a row."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, BLOCK_K)
    best = no_keys(slot, K)[None, :]
    for start in range(0, N, BLOCK_N):
        at = start + tl.arange(0, BLOCK_N)
        new = tl.load(keys + row * N + at, mask=at < N, other=_LAST)
        best = keep_best(best, tl.where(new < _EMPTY, new, _LAST)[None, :])
    best = tl.max(best, 0)
    rank = tl.sum((best[None, :] < best[:, None]).to(tl.int32), 1) - (BLOCK_K - K)
    empty = best >= _EMPTY
    order = (best >> 32).to(tl.int32)
    score = (order ^ ((order >> 31) & 0x7FFF_FFFF)).to(tl.float32, bitcast=True)
    at = row * K + rank
    tl.store(ids + at, tl.where(empty, -1, best & 0xFFFF_FFFF), mask=slot < K)
    tl.store(scores + at, tl.where(empty, float("inf"), score), mask=slot < K)


@triton.jit
def no_keys(slot, K: tl.constexpr):
    """Distinct keys that any token's is lower than; slots past K never change."""
    return tl.where(slot < K, slot.to(tl.int64) + _EMPTY, _UNUSED)


@triton.jit
def to_keys(scores, tokens, valid):
    """Keys in the order of (score, token): the score's bits above the token's.

    A score of inf or NaN stands for no token.
    """
    bits = tl.where(scores == 0, 0.0, scores).to(tl.int32, bitcast=True)  # -0.0 is not below 0.0
    order = bits ^ ((bits >> 31) & 0x7FFF_FFFF)
    return tl.where(
        valid & (scores < float("inf")), (order.to(tl.int64) << 32) | tokens[None, :], _LAST
    )


@triton.jit
def keep_best(best, keys):
    """The lowest of `best` [G, K] and `keys` [G, N], K a row; distinct but for `_LAST`.

    A round gives each row its lowest new key for its highest old one, until no row gains by that.
    """
    lowest = tl.min(keys, 1)
    highest = tl.max(best, 1)
    while tl.max((lowest < highest).to(tl.int32), 0) > 0:
        swap = (lowest < highest)[:, None] & (best == highest[:, None])
        best = tl.where(swap, lowest[:, None], best)
        keys = tl.where(keys == lowest[:, None], _LAST, keys)
        lowest = tl.min(keys, 1)
        highest = tl.max(best, 1)
    return best
