"""The gradient with attention in Triton, interpreted, beside that of torch's attention."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from greater_fast.gradients.example_loss import Terms
from greater_fast.gradients.gradient_pass import ExampleSequence, WholePass, packed_states
from greater_fast.gradients.packed_row import PackedRow
from greater_fast.gradients.packing_trial import why_not
from greater_fast.gradients.recomputing import activations_recomputed, layers_recomputed
from greater_fast.gradients.segment_attention import SegmentAttention
from greater_fast.gradients.suffix_forward import computed_prefixes
from greater_fast.model.cpu import attention as cpu_attention
from greater_fast.model.kv_cache import PrefixKV
from greater_fast.model.lm import LM
from greater_fast.rollouts.batch import RolloutEngine
from tests.cases import tiny_lm
from tests.exact import exact_lm

FAMILIES = ["llama", "gemma2", "gemma3"]  # with a soft cap, with windows
# Tokens of a sequence, and before its place: none, more than a block's, all but one of them.
SEQUENCES = ((18, 0), (24, 18), (9, 8))
FEW = ((3, 0), (20, 17))

Found = tuple[torch.Tensor, torch.Tensor]


def batch_of(sizes: tuple[tuple[int, int], ...] = SEQUENCES) -> list[ExampleSequence]:
    return [
        ExampleSequence(
            row=number,
            ids=tuple((7 * i * i + number) % 1100 + 5 for i in range(length + 1)),
            place=place,
            read_rows=tuple(sorted({place, length - 1})),
            terms=Terms((), 0.0, (5,)),
        )
        for number, (length, place) in enumerate(sizes)
    ]


def run(
    lm: LM,
    way: contextlib.AbstractContextManager[Any],
    batch: list[ExampleSequence],
    recomputing: Callable[[LM], contextlib.AbstractContextManager[None]] = activations_recomputed,
) -> Found:
    """States [R, D] and the gradients [B, D] of a fixed sum of them."""
    leaf = lm.embed(torch.tensor([s.ids[s.place] for s in batch])).detach().requires_grad_()
    with recomputing(lm), way as states_of:
        states = states_of(leaf)
        (gradients,) = torch.autograd.grad((states * states.detach().cos()).sum(), leaf)
    return states.detach(), gradients


def nothing_found(batch: list[ExampleSequence]) -> list[PrefixKV | None]:
    return [None] * len(batch)


def by_triton(lm: LM, batch: list[ExampleSequence], **named: Any) -> Found:
    return run(lm, packed_states(lm, batch, nothing_found(batch), "triton"), batch, **named)


def by_torch(lm: LM, batch: list[ExampleSequence]) -> Found:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_attention, "takes", lambda _: False)
        return run(lm, packed_states(lm, batch, nothing_found(batch), "reference"), batch)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_that_of_one_segment_after_another(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, batch = tiny_lm(family), batch_of()
    expected = by_torch(lm, batch)
    monkeypatch.delattr(SegmentAttention, "attend")
    monkeypatch.delattr(cpu_attention, "cpu_attention")
    for found, other in zip(by_triton(lm, batch), expected, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_it_is_within_rounding_that_of_whole_rows_in_float64(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of()
    exact = exact_lm(family, monkeypatch)
    expected = run(exact, WholePass(exact).states(batch), batch)
    monkeypatch.undo()
    for found, other in zip(by_triton(tiny_lm(family), batch), expected, strict=True):
        error = (found - other).norm(dim=-1) / other.norm(dim=-1)
        assert error.max() < 2e-5


@pytest.mark.parametrize("num_missing", [0, 2])
def test_prefixes_of_a_poisoned_pool_are_taken_where_they_lie(
    num_missing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And go to one place with the others where some are missing or end early."""
    lm, batch = tiny_lm("gemma3"), batch_of(FEW)
    engine = RolloutEngine(lm, kv_cache_bytes=1 << 22, poisoned=True)
    contexts = [list(s.ids[: s.place]) for s in batch if s.place]
    engine.next_logits([ids[: len(ids) - num_missing] for ids in contexts])
    found = [engine.prefix_kv(s.ids[: s.place]) for s in batch]
    prefixes = computed_prefixes(lm, [s.ids[: s.place] for s in batch], found, "triton")
    caches = {id(prefix.cache) for prefix in prefixes if prefix}
    assert (caches == {id(engine._cache)}) == (num_missing == 0)
    states, gradients = run(lm, packed_states(lm, batch, found, "triton"), batch)
    expected = by_torch(lm, batch)
    torch.testing.assert_close(states, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients, expected[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recomputing", [layers_recomputed, activations_recomputed])
def test_what_is_computed_again_changes_no_bit(recomputing: Any) -> None:
    lm, batch = tiny_lm(), batch_of(FEW)
    plain = by_triton(lm, batch, recomputing=lambda _: contextlib.nullcontext())
    for found, other in zip(by_triton(lm, batch, recomputing=recomputing), plain, strict=True):
        assert torch.equal(found, other)


def test_a_micro_batch_has_one_table_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, batch = tiny_lm(), batch_of(FEW)
    tables = []
    made = PackedRow._places.func

    def kept(row: PackedRow) -> Any:
        tables.append(made(row))
        return tables[-1]

    monkeypatch.setattr(PackedRow._places, "func", kept)
    by_triton(lm, batch)
    assert len(tables) == 2  # of the prefixes that are missing, and of the suffixes behind them


def test_the_trial_runs_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(SegmentAttention, "attend")
    monkeypatch.delattr(cpu_attention, "cpu_attention")
    assert why_not(tiny_lm(), kernels="triton") is None
