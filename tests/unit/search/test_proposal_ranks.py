"""Proposals against the sort of whole vocabularies that they stand for: the same bits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from greater_fast.config import Config
from greater_fast.search.nouns import Candidates, Position
from greater_fast.search.propose import draw_rows, highest
from tests.unit.search.test_propose import Table


def by_sorting(values: torch.Tensor, k: int) -> torch.Tensor:
    """The first k of each row's stable sort, as a mask."""
    order = values.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, order, True)


@given(
    rows=st.integers(1, 30).flatmap(
        lambda size: st.lists(
            st.lists(
                st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 1.0, 2.5, math.nan]),
                min_size=size,
                max_size=size,
            ),
            min_size=1,
            max_size=4,
        )
    ),
    k=st.integers(1, 35),
)
@hypothesis_settings(max_examples=300, deadline=None)
def test_the_highest_are_those_of_a_stable_sort(rows: list[list[float]], k: int) -> None:
    values = torch.tensor(rows)
    assert torch.equal(highest(values, k), by_sorting(values, k))
    assert torch.equal(highest(values.double(), k), by_sorting(values, k))


def test_the_highest_of_a_whole_vocabulary() -> None:
    """With ties at the edge, as 16-bit logits have them."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(6, 20_000, generator=generator).bfloat16().float()
    values[:, ::3] = -torch.inf
    for k in (1, 10, 77, 1280, 19_999, 20_000, 30_000):
        assert torch.equal(highest(values, k), by_sorting(values, k))


def proposed_by_sorting(table: Table, position: Position, config: Config) -> Candidates:
    """All ranks of every row, and the mean of all log-probabilities."""
    mask = position.without_stutter(table.candidate_mask, table.words)
    masked = table.values.masked_fill(~mask, -torch.inf)
    order = masked.sort(dim=1, descending=True, stable=True).indices
    ranks = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1]).expand_as(order)
    )
    logprobs = [row.log_softmax(-1) for row in table.values]
    top_k = config.top_k
    for number in range(8):
        top_k = config.top_k if number == 0 else min(2 * top_k, int(mask.sum()))
        draws = draw_rows(len(table), position.step, number, config)
        agreed = {
            int(i)
            for rows in draws
            for i in ((ranks[rows].amax(0) < top_k) & mask).nonzero()
            if i != position.incumbent_id and table.survives(position.with_token(int(i)))
        }
        if len(agreed) >= 2 * config.shortlist_size or top_k >= int(mask.sum()):
            break
    drawn = sorted({row for rows in draws for row in rows})
    mean = torch.stack([logprobs[row] for row in drawn]).mean(0)
    ids = sorted(agreed)
    return Candidates(tuple(ids), tuple(mean[ids].tolist()), top_k)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_candidates_are_bit_for_bit_those_of_sorting(seed: int, kind: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(12, 700, generator=generator) + torch.randn(700, generator=generator)
    table = Table(logits.tolist(), range(5, 700), lambda ids: ids[1] % 3 > 0)
    table.values = logits.to(kind).to(torch.promote_types(kind, torch.float32))
    config = Config(
        top_k=4, num_proposal_examples=3 + seed, num_draws=3, shortlist_size=2 + 3 * seed
    )
    position = Position(seed, 1, (10, 11, 12))
    found = table.propose(position, config)
    assert found == proposed_by_sorting(table, position, config)
    assert len(found.ids) > 0
