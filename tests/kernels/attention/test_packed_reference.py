"""Attention over a packed row in plain torch, beside one query at a time; what is refused."""

from typing import Any

import pytest
import torch

from greater_fast.kernels.attention.packed_reference import Segments
from greater_fast.kernels.attention.packed_reference import packed_attention as reference
from greater_fast.kernels.dispatch import packed_attention
from tests.kernels.attention.packed_row import exact, make_row

CPU = torch.device("cpu")
ROW = [(0, 1), (17, 5), (0, 4), (32, 3), (40, 1), (5, 0)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [(0.3, 0.0, 0), (0.5, 2.0, 3), (0.3, 0.0, 20)])
def test_reference_and_its_gradients(dtype: torch.dtype, options: tuple[float, float, int]) -> None:
    row = make_row(ROW, dtype=dtype)
    states = tuple(state.requires_grad_() for state in row.states)
    found = packed_attention(row.states, row.pool, row.segments, options)
    gradients = torch.autograd.grad(found, states, row.gradient)
    for one, wanted in zip((found, *gradients), exact(row, *options), strict=True):
        assert one.dtype == dtype
        near = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
        torch.testing.assert_close(one.double(), wanted, rtol=near, atol=near)


@pytest.mark.parametrize("size", [1, 16, 100])
def test_tiles(size: int) -> None:
    """Each token is in one, and what has most to do comes first."""
    segments = Segments([5, 0, 33, 18], [40, 7, 0, 3], [[1, 2, 3], [4], [], [5]], CPU)
    tokens = [(b, i) for b, length in enumerate(segments.lengths) for i in range(length)]
    for tiles in (segments.query_tiles(size), segments.key_tiles(size)):
        assert tiles.dtype == torch.int32
        held = [
            (b, i)
            for b, first in tiles.tolist()
            for i in range(first, min(first + size, segments.lengths[b]))
        ]
        assert sorted(held) == tokens
    before = [segments.prefix_lens[b] + i for b, i in segments.query_tiles(size).tolist()]
    behind = [segments.lengths[b] - i for b, i in segments.key_tiles(size).tolist()]
    assert before == sorted(before, reverse=True)
    assert behind == sorted(behind, reverse=True)
    assert segments.query_tiles(size) is segments.query_tiles(size)


def test_who_runs() -> None:
    """Plain torch on a CPU, and for what the kernels do not take; forced ones say why not."""
    options = (0.3, 0.0, 0)
    row = make_row([(3, 2)], heads=2, kv_heads=1)
    found = packed_attention(row.states, row.pool, row.segments, options)
    wanted = reference(row.states, row.pool, row.segments, *options)
    assert torch.equal(found, wanted)
    gaps = row.pool[0].transpose(2, 3).contiguous().transpose(2, 3), row.pool[1]
    large = make_row([(3, 2)], head_size=257)
    double = row.to(torch.float64)
    for one, pool, reason in (
        (row, gaps, "expected a contiguous one"),
        (large, large.pool, "heads of 257 numbers, expected at most 256"),
        (double, double.pool, "got torch.float64"),
    ):
        with pytest.raises(ValueError, match=reason):
            packed_attention(one.states, pool, one.segments, options, "triton")


def test_no_segments() -> None:
    row = make_row([(3, 0)])
    for segments in (row.segments, Segments([], [], [], row.segments.device)):
        found = packed_attention(row.states, row.pool, segments, (0.3, 0.0, 0))
        assert found.shape == row.states[0].shape


WRONG: dict[str, dict[str, Any]] = {
    r"states: got .*expected \[M, heads, D\]": {"queries": lambda x: x[0]},
    r"states: got keys and values \[14, 1, 16\] and": {"keys": lambda x: x[:, :1]},
    r"states: got keys and values .* expected \[14, 2, 8\]": {"queries": lambda x: x[..., :8]},
    "pool: got keys and values": {"stored": lambda x: x[1:]},
    "queries: got 3 heads, expected a multiple of 2": {"queries": lambda x: x[:, :3]},
    "got torch.float16 and torch.float32, expected one type": {"values": lambda x: x.half()},
    "expected one device": {"values": lambda x: x.to("meta")},
    "segments: got 14 tokens, expected 13": {
        name: lambda x: x[1:] for name in ("queries", "keys", "values")
    },
    "block_ids: got -2 to 9, expected 0 to 9": {"block_ids": lambda x: [[-2, 9], *x[1:]]},
    "block_ids: got 0 to 10, expected 0 to 9": {"block_ids": lambda x: [[0, 10], *x[1:]]},
    "block_ids: got 1 blocks of 16 for a prefix of 17 tokens": {
        "block_ids": lambda x: [x[0], x[1][:1], *x[2:]]
    },
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments(message: str) -> None:
    row = make_row(ROW)
    given: dict[str, Any] = dict(zip(("queries", "keys", "values"), row.states, strict=True))
    given |= {"stored": row.pool[0], "block_ids": row.segments.block_ids}
    given |= {name: change(given[name]) for name, change in WRONG[message].items()}
    lists = row.segments.lengths, row.segments.prefix_lens, given["block_ids"]
    states = given["queries"], given["keys"], given["values"]
    with pytest.raises(ValueError, match=message):
        packed_attention(
            states,
            (given["stored"], row.pool[1]),
            Segments(*lists, row.segments.device),
            (0.3, 0.0, 0),
        )
