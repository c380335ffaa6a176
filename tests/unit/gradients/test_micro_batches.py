"""Which examples go through the model together."""

from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greater_fast.gradients import micro_batches
from greater_fast.gradients.example_loss import Terms
from greater_fast.gradients.gradient_pass import ExampleSequence, PackedPass, WholePass
from greater_fast.memory.activations import PassPlan
from greater_fast.model.kv_cache import BLOCK_SIZE
from tests.cases import tiny_lm

MOST, HELD = 20, 30


def sequence(before: int, behind: int) -> ExampleSequence:
    """An example with so many tokens before the place, and from it on."""
    return ExampleSequence(0, tuple(range(before + behind + 1)), before, (), Terms((), 1.0))


def packed(capacity: int) -> PackedPass:
    engine: Any = SimpleNamespace(prefix_capacity=capacity, layers=None)
    return PackedPass(engine)


def batches(examples: Sequence[tuple[int, int]], way: PackedPass | WholePass) -> list[list[int]]:
    sequences = [sequence(*lengths) for lengths in examples]
    return micro_batches._batches(sequences, range(len(sequences)), way, PassPlan(MOST, False))


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 25)), max_size=12),
    st.sampled_from([0, 64, 10_000]),
)
def test_batches_hold_what_fits_and_one_at_least(
    examples: list[tuple[int, int]], capacity: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(micro_batches, "_HELD_TOKENS", HELD)
        found = batches(examples, packed(capacity))
    assert [number for batch in found for number in batch] == list(range(len(examples)))

    def fits(batch: Sequence[int]) -> bool:
        before, behind = (sum(examples[n][part] for n in batch) for part in (0, 1))
        has_room = before + BLOCK_SIZE * len(batch) <= capacity
        return behind <= MOST and (has_room or before <= HELD)

    assert all(len(batch) == 1 or fits(batch) for batch in found)
    for batch, following in pairwise(found):
        assert not fits([*batch, following[0]])  # none is closed early


def test_prefixes_that_the_engine_keeps_count_nothing() -> None:
    examples = [(500, 4)] * 4
    assert batches(examples, packed(4 * (500 + BLOCK_SIZE))) == [[0, 1, 2, 3]]
    assert batches(examples, packed(4 * (500 + BLOCK_SIZE) - 1)) == [[0, 1, 2], [3]]
    assert batches(examples, packed(0)) == [[0, 1], [2, 3]]


def test_whole_sequences_hold_no_prefix() -> None:
    way = WholePass(tiny_lm())
    assert way.num_held_tokens([sequence(500, 4)]) == 0
