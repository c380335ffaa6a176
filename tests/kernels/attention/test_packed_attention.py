"""The Triton kernels of packed attention are right to rounding, and each row's bits are its own."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from greater_fast.kernels.attention.packed_reference import Segments
from greater_fast.kernels.dispatch import packed_attention
from tests.kernels.attention.packed_row import Row, by_torch, exact, make_row

pytestmark = pytest.mark.usefixtures("gpu_if_any")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# A token alone, a prefix across blocks, one that ends with a block; lengths 1 and 2 mod 32.
ROW = [(0, 1), (17, 5), (0, 33), (32, 2), (31, 1), (5, 0), (40, 34)]
SMALL: dict[str, Any] = {"heads": 2, "kv_heads": 1}
OPTIONS = [(0.3, 0.0, 0), (0.3, 2.0, 0), (0.3, 0.0, 6)]


def attend(row: Row, options: tuple[float, float, int]) -> tuple[torch.Tensor, ...]:
    """The output, and the gradients of queries, keys and values."""
    leaves = [state.detach().requires_grad_() for state in row.states]
    states = leaves[0], leaves[1], leaves[2]
    output = packed_attention(states, row.pool, row.segments, options, "triton")
    return output.detach(), *torch.autograd.grad(output, leaves, row.gradient)


def check(row: Row, options: tuple[float, float, int]) -> None:
    """At most twice as far from float64 as plain torch is in the same type."""
    results = attend(row, options), exact(row, *options), by_torch(row, *options)
    for found, wanted, torch_found in zip(*results, strict=True):
        assert found.dtype == row.gradient.dtype
        error, allowed = (
            float((one.double() - wanted).abs().max()) for one in (found, torch_found)
        )
        unit = torch.finfo(found.dtype).eps * float(wanted.abs().max())
        assert error <= 2 * allowed + unit / 2 + 1e-6, (error, allowed)  # sums in float32: 1e-6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", [OPTIONS[0], (0.3, 2.0, 6)], ids=str)
def test_equals_float64(dtype: torch.dtype, options: tuple[float, float, int]) -> None:
    check(make_row(ROW, dtype=dtype, **SMALL), options)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_size"),
    [
        (2, 2, 64),
        (3, 1, 80),
        (4, 1, 128),
        (8, 1, 96),
        (1, 1, 256),
        (2, 1, 512),
        (7, 1, 20),
        (24, 1, 1),
    ],
)
def test_groups_and_head_sizes(heads: int, kv_heads: int, head_size: int) -> None:
    shape = {"heads": heads, "kv_heads": kv_heads, "head_size": head_size}
    check(make_row([(18, 3), (0, 19)], dtype=torch.bfloat16, **shape), (0.1, 0.0, 0))


@pytest.mark.parametrize("window", [1, 33, 50])
def test_windows(window: int) -> None:
    """That begin in the prefix, behind it, or before it."""
    row = make_row([(32, 4), (20, 40)], dtype=torch.bfloat16, **SMALL)
    check(row, (0.3, 0.0, window))


@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    segments=st.lists(st.tuples(st.integers(0, 35), st.integers(0, 35)), min_size=1, max_size=2),
    heads=st.sampled_from([(1, 1), (2, 1), (3, 1), (2, 2)]),
    head_size=st.integers(1, 40),
    soft_cap=st.sampled_from([0.0, 1.5]),
    window=st.integers(0, 40),
    dtype=st.sampled_from(DTYPES),
)
def test_any_row(
    segments: list[tuple[int, int]],
    heads: tuple[int, int],
    head_size: int,
    soft_cap: float,
    window: int,
    dtype: torch.dtype,
) -> None:
    segments = [*segments, (3, 2)]
    shape = {"heads": heads[0], "kv_heads": heads[1], "head_size": head_size}
    check(make_row(segments, dtype=dtype, **shape), (0.4, soft_cap, window))


def test_scores_far_apart() -> None:
    """The softmax neither overflows nor loses its sum, and the cap is right at both ends."""
    row = make_row([(20, 9)], **SMALL)
    for options in ((300.0, 0.0, 0), (300.0, 3.0, 0)):
        for found, wanted in zip(attend(row, options), exact(row, *options), strict=True):
            torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("options", OPTIONS[:2], ids=str)
def test_a_score_that_is_no_number_shows(options: tuple[float, float, int]) -> None:
    """In the rows that see it, and in no other segment."""
    row = make_row([(20, 3), (20, 2)], **SMALL)
    row.pool[0][row.segments.block_ids[0][1], :, 2] = torch.nan  # the key of token 18
    output, by_queries, by_keys, _ = attend(row, options)
    assert output[:3].isnan().all()
    assert by_queries[:3].isnan().all()
    assert by_keys[:3].isnan().all()
    wanted = attend(row.of([1]), options)
    for found, other in zip((output, by_queries, by_keys), wanted, strict=False):
        assert torch.equal(found[3:], other)


@pytest.mark.parametrize(("dtype", "options"), [*zip(DTYPES, OPTIONS, strict=True)], ids=str)
def test_a_segment_does_not_depend_on_what_is_beside_it(
    dtype: torch.dtype, options: tuple[float, float, int]
) -> None:
    """Alone, in another order: the same bits."""
    row = make_row([(17, 5), (0, 37), (3, 18), (32, 3)], heads=3, kv_heads=1, dtype=dtype)
    lengths = list(row.segments.lengths)
    together = [part.split(lengths) for part in attend(row, options)]
    for chosen in ([1], [3, 2, 1, 0]):
        for found, parts in zip(attend(row.of(chosen), options), together, strict=True):
            assert torch.equal(found, torch.cat([parts[b] for b in chosen]))


def test_states_may_be_views() -> None:
    """Heads before tokens, parts of one product, or a gradient without memory of its own."""
    row = make_row([(17, 5), (0, 3)], **SMALL)
    wanted = attend(row, OPTIONS[0])
    by_heads = [s.transpose(0, 1).contiguous().transpose(0, 1) for s in row.states]
    fused = torch.cat(row.states, 1).split([2, 1, 1], 1)
    apart = [s.repeat_interleave(2, 2)[..., ::2] for s in row.states]
    for q, k, v in (by_heads, fused, apart):
        views = Row((q, k, v), row.pool, row.segments, row.gradient)
        assert not any(state.is_contiguous() for state in views.states[:1])
        for found, one in zip(attend(views, OPTIONS[0]), wanted, strict=True):
            assert torch.equal(found, one)
    ones = torch.ones((), dtype=row.gradient.dtype).expand(row.gradient.shape)
    expanded = Row(row.states, row.pool, row.segments, ones)
    whole = Row(row.states, row.pool, row.segments, ones.contiguous())
    for found, one in zip(attend(expanded, OPTIONS[0]), attend(whole, OPTIONS[0]), strict=True):
        assert torch.equal(found, one)


def test_states_lie_beyond_what_32_bits_count() -> None:
    torch.use_deterministic_algorithms(False)  # its pages are touched where rows lie, only there
    row = make_row([(0, 3)], heads=1, kv_heads=1, dtype=torch.bfloat16)
    far = []
    for state in row.states:
        memory = torch.empty((1 << 31) + 64, dtype=state.dtype)
        far.append(memory.as_strided(state.shape, (1 << 30, 16, 1)).copy_(state))
    given_far = Row((far[0], far[1], far[2]), row.pool, row.segments, row.gradient)
    for found, wanted in zip(attend(given_far, OPTIONS[0]), attend(row, OPTIONS[0]), strict=True):
        assert torch.equal(found, wanted)


def test_no_prefixes_no_tokens() -> None:
    """A pool without blocks, and a row without tokens."""
    row = make_row([(0, 3), (0, 2)], **SMALL)
    without = Row(row.states, (row.pool[0][:0], row.pool[1][:0]), row.segments, row.gradient)
    for found, wanted in zip(attend(without, OPTIONS[0]), attend(row, OPTIONS[0]), strict=True):
        assert torch.equal(found, wanted)
    for segments in ([(20, 0)], []):
        empty = make_row([(20, 0)], **SMALL)
        if not segments:
            nowhere = Segments([], [], [], empty.segments.device)
            empty = Row(empty.states, empty.pool, nowhere, empty.gradient)
        assert all(len(part) == 0 for part in attend(empty, OPTIONS[0]))
