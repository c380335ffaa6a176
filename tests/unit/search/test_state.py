import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greater_fast.config import Config
from greater_fast.engine import Rollout
from greater_fast.examples.layout import Layouts
from greater_fast.search.nouns import Objective, Scored
from greater_fast.search.state import LoopState, rollouts_of

WORDS = {1: "think", 2: "well", 3: ".", 4: "now", 5: "!", 6: "?", 7: ",", 8: "\ufffd", 9: "。"}


class Texts:
    """Stands for layouts: the text of ids, which is all that the state asks for; 8 is none."""

    def prompt_text(self, prompt_ids: tuple[int, ...]) -> str:
        return " ".join(WORDS[i] for i in prompt_ids)

    def cuts_a_character(self, token_id: int) -> bool:
        return token_id == 8


LAYOUTS = cast(Layouts, Texts())


def scored(*prompt_ids: int, num_wrong: int = 1, nll: float = 2.0) -> Scored:
    rollout = Rollout((8, 9), (-0.5, -0.25), (True, False), nll)
    return Scored(prompt_ids, Objective(num_wrong, 2, nll, 0.5), (rollout, rollout))


def visited(
    state: LoopState, config: Config, winners: dict[int, Scored] | None = None
) -> list[Any]:
    """The places of a whole search; `winners` are the prompts that win in some of its steps."""
    places = []
    while (position := state.next_position(LAYOUTS, config)) is not None:
        assert position.prompt_ids == state.incumbent.prompt_ids
        places.append((position.index, position.grows))
        state.accept((winners or {}).get(position.step, state.incumbent))
    return places


@pytest.mark.parametrize("end", [3, 5, 6])
def test_a_sweep_without_a_change_ends_the_search(end: int) -> None:
    state = LoopState(scored(1, 2, end))
    assert visited(state, Config()) == [(0, False), (1, False), (2, False)]
    assert state.step == 3
    assert state.next_position(LAYOUTS, Config()) is None


@pytest.mark.parametrize("end", [2, 7])
def test_a_prompt_that_ends_no_sentence_tries_to_grow(end: int) -> None:
    places = visited(LoopState(scored(1, end)), Config())
    assert places == [(0, False), (1, False), (2, True)]


def test_growth_goes_on_until_the_sentence_ends() -> None:
    winners = {2: scored(1, 2, 4), 3: scored(1, 2, 4, 3)}
    places = visited(LoopState(scored(1, 2)), Config(), winners)
    first_sweep, second_sweep = places[:4], places[4:]
    assert first_sweep == [(0, False), (1, False), (2, True), (3, True)]
    assert second_sweep == [(index, False) for index in range(4)]


def test_growth_that_finds_nothing_wraps_around() -> None:
    winners = {1: scored(1, 4)}
    places = visited(LoopState(scored(1, 2)), Config(), winners)
    assert places == [(0, False), (1, False), (2, True)] * 2


def test_no_growth_past_the_longest_prompt() -> None:
    config = Config(max_prompt_tokens=3)
    winners = {2: scored(1, 2, 4)}
    places = visited(LoopState(scored(1, 2)), config, winners)
    assert places == [(0, False), (1, False), (2, True), *((i, False) for i in range(3))]
    assert not any(grows for _, grows in visited(LoopState(scored(1, 2, 4)), config))


def test_a_change_brings_another_sweep() -> None:
    winners = {0: scored(4, 2, 3), 4: scored(4, 1, 3)}
    places = visited(LoopState(scored(1, 2, 3)), Config(), winners)
    assert [index for index, _ in places] == [0, 1, 2] * 3


def test_without_that_stop_the_steps_alone_end_the_search() -> None:
    config = Config(stop_unchanged=False, steps=7)
    state = LoopState(scored(1, 2, 3))
    assert [index for index, _ in visited(state, config)] == [0, 1, 2, 0, 1, 2, 0]
    growing = visited(LoopState(scored(1, 2)), config)
    assert growing == [(0, False), (1, False), (2, True)] * 2 + [(0, False)]


def test_a_prompt_without_a_place_ends_the_search_all_the_same() -> None:
    config = Config(stop_unchanged=False, max_prompt_tokens=2)
    assert visited(LoopState(scored(8, 8)), config) == []


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_the_steps_are_counted(steps: int) -> None:
    winners = {number: scored(1 + number % 2, 2, 3) for number in range(20)}
    state = LoopState(scored(1, 2, 3))
    assert len(visited(state, Config(steps=steps), winners)) == steps
    assert state.step == steps


def test_accept_says_whether_the_prompt_changed() -> None:
    state = LoopState(scored(1, 2, 3))
    assert not state.accept(state.incumbent)
    assert state.accept(scored(4, 2, 3))
    assert state.changed_in_sweep
    assert state.incumbent.prompt_ids == (4, 2, 3)


def test_the_incumbent_is_always_among_the_scored() -> None:
    assert list(LoopState(scored(1, 2)).scored) == [(1, 2)]


def test_best_prompts_and_their_order() -> None:
    config = Config()
    state = LoopState(scored(1, 2, num_wrong=1))
    for other in (scored(2, 1, num_wrong=2), scored(1, 1, num_wrong=1), scored(2, 2, num_wrong=0)):
        state.scored[other.prompt_ids] = other
    assert [s.prompt_ids for s in state.best(3, config)] == [(2, 2), (1, 2), (1, 1)]
    assert len(state.best(10, config)) == 4


def test_round_trip_of_the_whole_state_through_json() -> None:
    state = LoopState(scored(1, 2, 3))
    state.scored[4, 2, 3] = scored(4, 2, 3, num_wrong=0, nll=0.1)
    state.accept(state.scored[4, 2, 3])
    state.add(scored(1, 1, 3, num_wrong=2), Config(gradient="both"))
    state.given_up[1, 4, 3] = 0.1 + 0.2
    state.dropped[1, 5, 3] = 7
    written = json.loads(json.dumps(state.to_dict()))
    read = LoopState.from_dict(written)
    assert json.loads(json.dumps(read.to_dict())) == written
    assert read.incumbent == state.incumbent
    assert list(read.scored) == list(state.scored)
    assert read.given_up == state.given_up
    assert read.reasonings == state.reasonings
    assert [len(row) for row in read.reasonings.rows] == [1, 1]
    assert read.dropped == state.dropped
    del written["dropped"]  # as a state was written before there were races
    assert LoopState.from_dict(written).dropped == {}
    assert [s.objective for s in read.scored.values()] == [
        s.objective for s in state.scored.values()
    ]
    assert read.next_position(LAYOUTS, Config()) == state.next_position(LAYOUTS, Config())
    assert visited(read, Config()) == visited(state, Config())


def test_a_state_of_before_there_were_reasonings_is_read() -> None:
    written = LoopState(scored(1, 2, 3)).to_dict()
    del written["reasonings"]
    for rollout in written["incumbent_rollouts"]:
        del rollout["end_id"]
    assert LoopState.from_dict(written) == LoopState(scored(1, 2, 3))


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        ({}, 0),
        ({"gradient": "both"}, 2),
        ({"gradient": "reasoning"}, 2),
        ({"gradient": "both", "reasonings": "sampled"}, 0),
        ({"gradient": "both", "shortlist": "random"}, 0),
    ],
)
def test_reasonings_are_kept_where_the_gradient_asks_for_them(
    settings: dict[str, Any], number: int
) -> None:
    state = LoopState(scored(1, 2))
    state.given_up[2, 2] = 0.5
    state.add(scored(2, 2), Config(**settings))
    assert list(state.scored) == [(1, 2), (2, 2)]
    assert not state.given_up
    assert len(state.reasonings.rows) == number


@pytest.mark.parametrize(
    ("prompt", "places"),
    [
        ((8, 8, 1, 8, 3), [(2, False), (4, False)]),
        ((1, 8, 8), [(0, False), (3, True)]),
        ((8, 8), [(2, True)]),
        ((8, 8, 9), [(2, False)]),
    ],
)
def test_a_place_inside_a_character_is_passed_over(
    prompt: tuple[int, ...], places: list[Any]
) -> None:
    """It costs no step, and a prompt of such places alone ends the search."""
    assert visited(LoopState(scored(*prompt)), Config()) == places
    full = Config(max_prompt_tokens=len(prompt))
    assert visited(LoopState(scored(*prompt)), full) == [p for p in places if not p[1]]


def test_a_sweep_after_a_change_passes_over_it_again() -> None:
    state = LoopState(scored(8, 1, 3))
    assert visited(state, Config(), {0: scored(8, 2, 3)}) == [(1, False), (2, False)] * 2


logprobs = st.floats(allow_nan=False, allow_infinity=False, width=32)
token_ids = st.lists(st.integers(0, 200_000), max_size=3).map(tuple)
rollouts = st.builds(
    Rollout,
    token_ids,
    st.lists(logprobs, max_size=2).map(tuple),
    st.lists(st.booleans(), max_size=2).map(tuple),
    st.floats(0, 1e300),
    token_ids,
    st.none() | st.integers(0, 9),
    st.none() | st.floats(0, 1),
)
objectives = st.builds(
    Objective, st.integers(0, 9) | st.floats(0, 9), st.just(9), st.floats(0, 1e9), st.floats(0, 1e9)
)
prompts = st.builds(
    Scored, token_ids, objectives, st.lists(rollouts, min_size=2, max_size=2).map(tuple)
)
configs = st.sampled_from([Config(), Config(gradient="both", num_reasonings=2)])


@given(
    st.lists(prompts, min_size=1, max_size=5, unique_by=lambda found: found.prompt_ids),
    st.dictionaries(token_ids, st.floats(0, 1e9), max_size=3),
    st.dictionaries(token_ids, st.integers(0, 99), max_size=3),
    configs,
    st.data(),
)
def test_any_state_comes_back_as_it_was(
    found: list[Scored], given_up: Any, dropped: Any, config: Config, data: st.DataObject
) -> None:
    state = LoopState(found[0], step=3, index=7, changed_in_sweep=True, dropped=dropped)
    for prompt in found:
        state.add(prompt, config)
    state.given_up = given_up
    state.incumbent = data.draw(st.sampled_from(found))
    written = json.dumps([state.to_dict(), list(map(rollouts_of, state.scored.values()))])
    read = LoopState.from_dict(*json.loads(written))
    assert read == state
    assert list(read.scored) == list(state.scored)
    assert repr(read) == repr(state)  # types too: a whole number stays one


def test_a_copy_does_not_change_with_the_original() -> None:
    config = Config(gradient="both")
    state = LoopState(scored(1, 2, 3))
    state.add(state.incumbent, config)
    copy, before = state.copy(), repr(state)
    assert copy == state
    state.add(scored(4, 2, 3, num_wrong=0), config)
    state.accept(scored(4, 2, 3))
    state.given_up[5, 5], state.dropped[6, 6] = 1.0, 2
    state.next_position(LAYOUTS, Config())
    assert repr(copy) == before
