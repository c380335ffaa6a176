"""Which reasonings are kept and chosen, beside the rules said in another way."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greater_fast.engine import Rollout
from greater_fast.search.reasonings import Reasoning, ReasoningStore, advantages, distinct

# Few that differ, so that they come back, some with another outcome.
ROLLOUTS = st.builds(
    lambda ids, hit, end: Rollout(tuple(ids), (-1.0,), (hit,), 1.0, end_id=end),
    st.lists(st.integers(5, 6), max_size=2),
    st.booleans(),
    st.sampled_from([None, 1, 2]),
)
HISTORIES = st.lists(st.tuples(ROLLOUTS, ROLLOUTS), min_size=1, max_size=12)


def stored(history: list[tuple[Rollout, Rollout]], number: int) -> ReasoningStore:
    store = ReasoningStore()
    for rollouts in history:
        store.add(rollouts, number)
    return store


@given(HISTORIES, st.integers(2, 4))
def test_the_newest_that_differ_are_kept_of_each_outcome(
    history: list[tuple[Rollout, Rollout]], number: int
) -> None:
    store = stored(history, number)
    for row, kept in enumerate(store.rows):
        assert kept[-1] == Reasoning.of(history[-1][row])
        assert len({r.written_ids for r in kept}) == len(kept)
        for is_right in (True, False):
            own = [r for r in kept if r.is_right == is_right]
            assert len(own) <= number
        # Kept is what was last seen so, unless `number` of its outcome were kept after it.
        last_seen: dict[tuple[int, ...], Reasoning] = {}
        for rollouts in history:
            new = Reasoning.of(rollouts[row])
            last_seen.pop(new.written_ids, None)
            last_seen[new.written_ids] = new
        assert [r for r in last_seen.values() if r in kept] == kept


@given(HISTORIES, ROLLOUTS, st.integers(2, 5))
def test_those_chosen_are_mixed_where_that_can_be(
    history: list[tuple[Rollout, Rollout]], own: Rollout, number: int
) -> None:
    store = stored(history, number)
    (chosen, _) = store.chosen([own, own], number)
    assert chosen[0] == Reasoning.of(own)
    assert distinct(chosen) == chosen
    others = [r for r in store.rows[0] if r.written_ids != chosen[0].written_ids]
    assert set(chosen[1:]) <= set(others)
    assert len(chosen) == min(number, 1 + len(others))
    counts = {
        is_right: (
            sum(r.is_right == is_right for r in chosen),
            sum(r.is_right == is_right for r in [chosen[0], *others]),
        )
        for is_right in (True, False)
    }
    for taken, there in counts.values():  # a half of the places, or all that there are
        assert taken >= min(there, number // 2)


@given(HISTORIES)
def test_it_goes_through_json(history: list[tuple[Rollout, Rollout]]) -> None:
    store = stored(history, 2)
    assert ReasoningStore.from_list(json.loads(json.dumps(store.to_list()))) == store


def test_the_newest_come_first_and_other_outcomes_first_among_them() -> None:
    store = ReasoningStore()
    for number, hit in enumerate([True, False, True, False, False, True]):
        store.add([Rollout((number,), (-1.0,), (hit,))], 4)
    (chosen,) = store.chosen([Rollout((9,), (-1.0,), (True,))], 6)
    assert [r.ids[0] for r in chosen] == [9, 4, 5, 3, 2, 1]


def test_an_empty_store_leaves_each_row_its_own() -> None:
    own = Rollout((9,), (-1.0,), (True,), end_id=3)
    assert ReasoningStore().chosen([own, own], 4) == [[Reasoning((9,), True, 3)]] * 2


def test_an_end_is_part_of_what_was_written() -> None:
    cut, ended = Reasoning((5, 6), True, None), Reasoning((5, 6), False, 1)
    assert (cut.written_ids, ended.written_ids) == ((5, 6), (5, 6, 1))
    assert distinct([cut, ended, cut, Reasoning((5, 6), True, 1)]) == [cut, ended]


@given(st.lists(st.booleans(), max_size=6))
def test_an_advantage_is_the_reward_less_the_mean_of_the_others(outcomes: list[bool]) -> None:
    found = advantages([Reasoning((5,), outcome, 1) for outcome in outcomes])
    if len(set(outcomes)) < 2:
        assert found == [0.0] * len(outcomes)
        return
    for number, outcome in enumerate(outcomes):
        others = [*outcomes[:number], *outcomes[number + 1 :]]
        assert found[number] == pytest.approx(outcome - sum(others) / len(others))
    assert sum(found) == pytest.approx(0, abs=1e-12)
