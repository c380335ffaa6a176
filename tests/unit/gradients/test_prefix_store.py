"""Prefixes of a pass side by side in blocks: what was found, and what was computed behind it."""

import gc
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from greater_fast.gradients.prefix_store import PrefixStore
from greater_fast.gradients.suffix_forward import computed_prefixes
from greater_fast.model.kv_cache import BLOCK_SIZE, PrefixKV
from tests.cases import tiny_lm

CPU = torch.device("cpu")
KV_HEADS, KEY_SIZE, VALUE_SIZE = 2, 4, 3


class PoisonedPool:
    """Blocks of one layer that are NaN where nobody writes."""

    def __init__(self, num_blocks: int) -> None:
        self.tensors = tuple(
            torch.full((num_blocks, KV_HEADS, BLOCK_SIZE, size), torch.nan)
            for size in (KEY_SIZE, VALUE_SIZE)
        )

    def layer(self, index: int) -> Any:
        return self.tensors


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
)
def test_each_prefix_is_what_was_found_and_then_what_was_written(
    sizes: list[tuple[int, int]], seed: int
) -> None:
    source = torch.Generator().manual_seed(seed)
    widths = (KEY_SIZE, VALUE_SIZE)
    wholes = [
        [torch.randn(KV_HEADS, old + new, width, generator=source) for width in widths]
        for old, new in sizes
    ]
    pool, found = PoisonedPool(16), []
    order = torch.randperm(16, generator=source)
    for (num_old, _), whole in zip(sizes, wholes, strict=True):
        count = -(-num_old // BLOCK_SIZE)
        ids, order = order[:count], order[count:]
        for tensor, states in zip(pool.tensors, whole, strict=True):
            for place in range(num_old):
                tensor[ids[place // BLOCK_SIZE], :, place % BLOCK_SIZE] = states[:, place]
        found.append(PrefixKV(num_old, pool, ids) if num_old else None)
    store = PrefixStore([old + new for old, new in sizes], found, CPU)
    new = [
        torch.cat([whole[n][:, old:] for (old, _), whole in zip(sizes, wholes, strict=True)], 1)
        for n in range(2)
    ]
    store.write(7, new)
    for prefix, whole in zip(store.prefixes, wholes, strict=True):
        for stored, expected in zip(prefix.layer(7), whole, strict=True):
            assert torch.equal(stored, expected)
    blocks = torch.cat([prefix.block_ids for prefix in store.prefixes])
    assert len(blocks.unique()) == len(blocks) == len(store.prefixes[0].cache.layer(7)[0])
    assert len(blocks) == sum(-(-(old + new) // BLOCK_SIZE) for old, new in sizes)


def test_what_is_all_there_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm()
    stored = computed_prefixes(lm, [[5, 6, 7], [8]], [None, None])
    monkeypatch.delattr(type(lm.decoder), "forward")
    again = computed_prefixes(lm, [[5, 6, 7], [], [8]], [stored[0], None, stored[1]])
    assert again[0] is stored[0]
    assert again[1] is None
    assert again[2] is stored[1]


def test_all_lie_in_one_pool_as_soon_as_one_is_missing() -> None:
    lm = tiny_lm()
    first = computed_prefixes(lm, [[5, 6, 7], [8, 9]], [None, None])
    contexts = [[5, 6, 7], [], [8, 9, 10]]
    found = computed_prefixes(lm, contexts, [first[0], None, first[1]])
    assert found[1] is None
    prefixes = [prefix for prefix in found if prefix]
    assert len({id(prefix.cache) for prefix in prefixes}) == 1
    assert prefixes[0].cache is not first[0].cache  # type: ignore[union-attr]
    fresh = computed_prefixes(lm, contexts, [None] * 3)
    for index in range(lm.model.config.num_hidden_layers):
        for ours, expected in zip(found, fresh, strict=True):
            if ours and expected:
                torch.testing.assert_close(ours.layer(index), expected.layer(index))


def test_a_store_goes_with_its_last_prefix() -> None:
    """Not some time later: on a GPU nothing would ask for it."""
    gc.disable()
    try:
        (prefix,) = computed_prefixes(tiny_lm(), [tuple(range(5, 25))], [None])
        assert prefix is not None
        keys = weakref.ref(prefix.cache.layer(0)[0])
        assert keys() is not None
        del prefix
        assert keys() is None
    finally:
        gc.enable()
