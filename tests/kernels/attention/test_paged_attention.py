"""The Triton kernel is right to rounding, and each row's bits are its own."""

from typing import Any

import pytest
import torch

from greater_fast.kernels import reference
from greater_fast.kernels.attention import paged as op
from greater_fast.kernels.attention.paged import paged_attention
from tests.kernels.attention.paged_batch import Batch, make_batch

pytestmark = pytest.mark.usefixtures("gpu_if_any")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
RAGGED = [(1, 1), (5, 5), (1, 23), (7, 30), (3, 70), (1, 64)]
OPTIONS: list[dict[str, Any]] = [{}, {"soft_cap": 2.0}, {"window": 6}]


def exact(batch: Batch, scale: float, **options: Any) -> torch.Tensor:
    keys, values = (tensor.double() for tensor in batch.pool)
    return reference.paged_attention(
        batch.queries.double(), (keys, values), batch.ranges, scale, **options
    )


def torch_error(batch: Batch, wanted: torch.Tensor, scale: float, **options: Any) -> float:
    """Largest error of plain torch that rounds scores and weights to the queries' dtype."""
    dtype, worst = batch.queries.dtype, 0.0
    starts, lens, tables = batch.ranges
    group = batch.queries.shape[1] // batch.pool[0].shape[1]
    for b in range(len(lens)):
        rows, context = slice(starts[b], starts[b + 1]), int(lens[b])
        keys, values = (
            tensor[tables[b].long()].transpose(1, 2).flatten(0, 1)[:context]
            for tensor in batch.pool
        )
        keys, values = (x.repeat_interleave(group, 1).transpose(0, 1) for x in (keys, values))
        scores = batch.queries[rows].transpose(0, 1) @ keys.transpose(1, 2) * scale
        if cap := options.get("soft_cap"):
            scores = cap * torch.tanh(scores / cap)
        own = torch.arange(context)[context - scores.shape[1] :, None]
        key = torch.arange(context)
        seen = (key <= own) & (key > own - (options.get("window") or context))
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        found = (weights.to(dtype) @ values).transpose(0, 1)
        worst = max(worst, float((found.double() - wanted[rows]).abs().max()))
    return worst


def check(batch: Batch, **options: Any) -> None:
    scale = batch.queries.shape[2] ** -0.5
    found = paged_attention(batch.queries, batch.pool, batch.ranges, scale, **options)
    assert found.dtype == batch.queries.dtype
    num_real = int(batch.ranges.starts[-1])
    assert (found[num_real:] == 0).all()
    wanted = exact(batch, scale, **options)[:num_real]
    error = float((found[:num_real].double() - wanted).abs().max())
    unit = torch.finfo(found.dtype).eps * float(wanted.abs().max())
    assert error <= 2 * torch_error(batch, wanted, scale, **options) + unit / 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", [{}, {"soft_cap": 2.0, "window": 6}], ids=str)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_size"), [(4, 2, 64), (3, 1, 80), (7, 1, 12), (2, 2, 96)]
)
def test_equals_the_reference(
    dtype: torch.dtype, options: dict[str, Any], heads: int, kv_heads: int, head_size: int
) -> None:
    shape = {"heads": heads, "kv_heads": kv_heads, "head_size": head_size}
    batch = make_batch(RAGGED, dtype=dtype, **shape)
    check(batch.of([3, 0, 5, 1, 4, 2], num_padding=3), **options)


@pytest.mark.parametrize("head_size", [1, 31, 128, 200, 256, 500, 512])
def test_head_sizes(head_size: int) -> None:
    check(make_batch([(2, 40), (1, 5)], heads=2, kv_heads=1, head_size=head_size))


@pytest.mark.parametrize("group", [5, 16, 24])
def test_large_groups(group: int) -> None:
    check(make_batch([(2, 40), (5, 5)], heads=group, kv_heads=1))


def split_finely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op, "SPLIT", 32)
    monkeypatch.setattr(op, "MAX_WORKERS", 2)


@pytest.mark.parametrize(("window", "soft_cap"), [(0, 0.0), (1, 0.0), (33, 30.0), (64, 0.0)])
def test_contexts_of_many_splits(
    window: int, soft_cap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer splits than programs, as many, and more, with windows that begin in any of them."""
    split_finely(monkeypatch)
    batch = make_batch([(1, 20), (2, 33), (1, 64), (3, 65), (1, 150)], heads=2, kv_heads=1)
    check(batch.of([0, 1, 2, 3, 4], num_padding=2), window=window, soft_cap=soft_cap)


def test_scores_far_apart() -> None:
    """The softmax neither overflows nor loses its sum, and the cap is right at both ends."""
    batch = make_batch([(3, 50)], heads=2, kv_heads=1, dtype=torch.float32)
    for options in ({}, {"soft_cap": 3.0}):
        found = paged_attention(batch.queries, batch.pool, batch.ranges, 300.0, **options)
        torch.testing.assert_close(
            found.double(), exact(batch, 300.0, **options), rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("options", OPTIONS[:2], ids=str)
def test_a_score_that_is_no_number_shows(options: dict[str, Any]) -> None:
    """In the rows that see it, and in no other."""
    batch = make_batch([(3, 20), (1, 5)])
    block = batch.ranges.block_tables[0, 1]
    batch.pool[0][block, :, 2] = torch.nan  # the key of token 18
    found = paged_attention(*batch, 0.3, **options)
    assert found[1:3].isnan().all()
    others = [0, 3]
    wanted = exact(batch, 0.3, **options)[others]
    torch.testing.assert_close(found[others].double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "options"), [*zip(DTYPES, OPTIONS, strict=True)], ids=str)
def test_a_row_does_not_depend_on_its_batch(
    dtype: torch.dtype, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, in another order, before padding, with wider tables: the same bits."""
    split_finely(monkeypatch)
    shape: dict[str, Any] = {"heads": 3, "kv_heads": 1, "head_size": 20, "dtype": dtype}
    sequences = [(5, 5), (1, 23), (3, 30), (2, 110)]
    batch = make_batch(sequences, **shape)
    together = paged_attention(*batch, 0.3, **options)
    for chosen, num_padding in (([0], 0), ([3, 2, 1, 0], 2), ([1, 3], 4)):
        alone = paged_attention(*batch.of(chosen, num_padding), 0.3, **options)
        expected = batch.rows(together, chosen)
        assert torch.equal(alone[: len(expected)], expected)
    wide = paged_attention(*make_batch(sequences, spare_width=3, **shape), 0.3, **options)
    assert torch.equal(wide, together)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("cuts", [[1] * 8, [2, 6], [7, 1]], ids=str)
def test_a_prompt_may_be_cut_anywhere(
    options: dict[str, Any], cuts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    split_finely(monkeypatch)
    queries, pool, ranges = make_batch([(8, 70)], heads=3, kv_heads=1, head_size=20)
    whole = paged_attention(queries, pool, ranges, 0.3, **options)
    stops = torch.tensor(cuts).cumsum(0).tolist()
    parts = [
        paged_attention(
            queries[stop - count : stop],
            pool,
            ranges._replace(
                starts=torch.tensor([0, count], dtype=torch.int32),
                context_lens=torch.tensor([62 + stop], dtype=torch.int32),
            ),
            0.3,
            **options,
        )
        for count, stop in zip(cuts, stops, strict=True)
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_empty_sequences_are_padding() -> None:
    """A step of fixed size has ranges without queries behind those in use, and between them."""
    batch = make_batch([(2, 20), (3, 9)], heads=2, kv_heads=1)
    starts, lens, tables = batch.ranges
    ranges = reference.Ranges(
        torch.tensor([0, 2, 2, 5, 5, 5], dtype=torch.int32),
        torch.tensor([20, 0, 9, 0, 0], dtype=torch.int32),
        tables[[0, 1, 1, 0, 0]],
    )
    queries = torch.cat([batch.queries, torch.full((4, 2, 32), torch.nan)])
    found = paged_attention(queries, batch.pool, ranges, 0.3)
    assert torch.equal(found[:5], paged_attention(*batch, 0.3))
    assert (found[5:] == 0).all()
    nothing = ranges._replace(starts=starts.new_zeros(6), context_lens=lens.new_zeros(5))
    assert (paged_attention(queries, batch.pool, nothing, 0.3) == 0).all()


def test_more_sequences_than_are_counted_at_once() -> None:
    """Those with queries are among the first, in the middle, and the last."""
    batch = make_batch([(2, 20), (1, 5), (1, 9)], heads=1, kv_heads=1, head_size=8)
    places, num_sequences = (0, 255, 599), 600
    counts, lens = torch.zeros(2, num_sequences, dtype=torch.int32)
    tables = torch.zeros(num_sequences, batch.ranges.block_tables.shape[1], dtype=torch.int32)
    for own, place in enumerate(places):
        counts[place] = batch.ranges.starts[own + 1] - batch.ranges.starts[own]
        lens[place] = batch.ranges.context_lens[own]
        tables[place] = batch.ranges.block_tables[own]
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0, dtype=torch.int32)])
    ranges = reference.Ranges(starts, lens, tables)
    found = paged_attention(batch.queries, batch.pool, ranges, 0.3)
    assert torch.equal(found, paged_attention(*batch, 0.3))


def test_no_blocks_no_sequences() -> None:
    """Every row is padding."""
    queries, pool, _ = make_batch([(2, 20)], heads=2, kv_heads=1)
    for num_sequences, table_width in ((1, 0), (0, 3), (0, 0)):
        sizes = ((num_sequences + 1,), (num_sequences,), (num_sequences, table_width))
        ranges = reference.Ranges(*(torch.zeros(size, dtype=torch.int32) for size in sizes))
        assert (paged_attention(queries, pool, ranges, 0.3) == 0).all()


def test_queries_may_be_a_view() -> None:
    """As attention modules give them: heads before tokens."""
    batch = make_batch(RAGGED[:3], heads=2, kv_heads=1)
    view = batch.queries.transpose(0, 1).contiguous().transpose(0, 1)
    assert not view.is_contiguous()
    found = paged_attention(view, batch.pool, batch.ranges, 0.3)
    assert torch.equal(found, paged_attention(*batch, 0.3))


def test_queries_lie_beyond_what_32_bits_count() -> None:
    torch.use_deterministic_algorithms(False)  # its pages are touched where rows lie, only there
    memory = torch.empty((1 << 31) + 64, dtype=torch.bfloat16)
    queries = memory.as_strided((3, 1, 16), (1 << 30, 16, 1))
    shape: dict[str, Any] = {"heads": 1, "kv_heads": 1, "head_size": 16, "dtype": memory.dtype}
    batch = make_batch([(3, 20)], **shape)
    queries.copy_(batch.queries)
    found = paged_attention(queries, batch.pool, batch.ranges, 0.3)
    assert torch.equal(found, paged_attention(*batch, 0.3))


WRONG: dict[str, dict[str, Any]] = {
    "queries: got": {"queries": lambda x: x.half()},
    "queries: got .* strides": {"queries": lambda x: x.repeat_interleave(2, 2)[..., ::2]},
    "expected a multiple": {"queries": lambda x: x[:, :3]},
    "queries: got .* expected": {"queries": lambda x: x[..., :8]},
    "keys: expected a contiguous pool": {"keys": lambda x: x.transpose(0, 1)},
    r"keys: got .* expected \[blocks": {"keys": lambda x: x.double()},
    "values: got": {"values": lambda x: x[1:]},
    "starts: got": {"starts": lambda x: x[1:]},
    "starts: got torch.int64": {"starts": lambda x: x.long()},
    "context_lens: got": {"context_lens": lambda x: x[1:]},
    "block_tables: got": {"block_tables": lambda x: x.t().contiguous().t()},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments(message: str) -> None:
    queries, (keys, values), ranges = make_batch(RAGGED, heads=4, kv_heads=2)
    given = {"queries": queries, "keys": keys, "values": values, **ranges._asdict()}
    given |= {name: change(given[name]) for name, change in WRONG[message].items()}
    ranges = reference.Ranges(*(given[name] for name in reference.Ranges._fields))
    with pytest.raises(ValueError, match=message):
        paged_attention(given["queries"], (given["keys"], given["values"]), ranges, 0.3)
