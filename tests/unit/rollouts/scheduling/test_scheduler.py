"""What the scheduler shares, waits for, evicts and drafts, case by case."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.unit.hash_language import TEXTS, VOCAB, Request, Stop, expected, next_id, state_of
from tests.unit.rollouts.scheduling.scheduler_model import World


def wanted(*requests: Request) -> list[Any]:
    return [expected(request).outcome for request in requests]


def computed(world: World, *requests: Request) -> int:
    """Run requests; how many tokens went through the model for them."""
    before = world.scheduler.statistics()["computed_tokens"]
    assert world.run(*requests) == wanted(*requests)
    return world.scheduler.statistics()["computed_tokens"] - before


PROMPT = TEXTS[0][:10]


def variant(key: int, common: int, **fields: Any) -> Request:
    """A prompt of ten tokens, of which the first are those of PROMPT, and no other."""
    ids = (*PROMPT[:common], *((token + 1) % VOCAB for token in PROMPT[common:]))
    return Request(key, ids, 1, **fields)


@pytest.mark.parametrize("block_size", [1, 3, 4, 5, 10, 16])
@pytest.mark.parametrize("common", range(11))
def test_sharing_is_exact_to_the_token(block_size: int, common: int) -> None:
    world = World(num_blocks=40, block_size=block_size)
    assert computed(world, variant(0, 10)) == 10
    assert computed(world, variant(1, common)) == 10 - min(common, 9)  # the last gives the logits


@pytest.mark.parametrize("common", range(11))
def test_a_known_prompt_nll_is_not_computed_again(common: int) -> None:
    world = World(num_blocks=40)
    assert computed(world, variant(0, 10, prompt_span=(3, 8))) == 10
    # An NLL that is unknown is read off the row before its token.
    assert computed(world, variant(1, common, prompt_span=(3, 8))) == (
        10 - min(common, 9) + (3 <= common < 8)
    )
    assert computed(world, variant(2, common, prompt_span=(3, 8))) == 1
    assert computed(world, variant(3, 10, prompt_span=(2, 9))) == 10 - 1  # 2 was never asked for


def test_an_nll_is_kept_with_a_prefix_that_was_stored_without() -> None:
    world = World(num_blocks=40)
    assert computed(world, variant(0, 10)) == 10
    assert computed(world, variant(1, 10, prompt_span=(3, 8))) == 8
    assert computed(world, variant(2, 10, prompt_span=(3, 8))) == 1


def test_siblings_wait_for_the_first_and_share_its_prefix() -> None:
    world = World(num_blocks=40)
    asked = [variant(key, common) for key, common in enumerate((10, 8, 8, 10))]
    world.submit(*asked)
    assert world.step().num_sequences == 1
    assert world.scheduler.num_waiting == 3
    assert world.step().num_sequences == 3  # the third adds what the second adds: no whole block
    world.drain()
    assert [world.finished[r.key] for r in asked] == wanted(*asked)
    assert world.counts.num_tokens == 10 + 2 + 2 + 1


@pytest.mark.parametrize("common", range(11))
def test_only_a_whole_block_is_waited_for(common: int) -> None:
    world = World(num_blocks=40)
    asked = [variant(0, 10), variant(1, common)]
    world.submit(*asked)
    assert world.step().num_sequences == (1 if common >= 4 else 2)
    world.drain()
    assert [world.finished[r.key] for r in asked] == wanted(*asked)
    assert world.counts.num_tokens == 20 - (min(common, 9) if common >= 4 else 0)


def test_what_is_there_is_copied_where_more_is_on_its_way() -> None:
    world = World(num_blocks=40, block_size=8)
    world.run(Request(0, PROMPT[:3], 1))
    asked = [Request(1, PROMPT[:6], 1), Request(2, PROMPT[:7], 1)]
    world.submit(*asked)
    assert world.step()[:2] == (3 + 4, 2)  # 3 of the second's tokens are on their way, no block
    world.drain()
    assert [world.finished[r.key] for r in asked] == wanted(*asked)


def test_without_sharing_nobody_waits() -> None:
    world = World(num_blocks=40, share_prefixes=False)
    world.submit(*(variant(key, 10) for key in range(4)))
    assert world.step()[:2] == (40, 4)


def test_a_partly_shared_block_is_copied() -> None:
    world = World(num_blocks=40)
    world.run(variant(0, 10))
    world.submit(variant(1, 8), variant(2, 6))
    assert world.step().num_copies == 1  # 8 is two whole blocks, 6 half of the second
    world.drain()


def test_the_least_recently_used_prefix_is_evicted_first() -> None:
    prompts = [tuple([first] * 4) for first in range(5)]
    world = World(num_blocks=5)
    for key, prompt in enumerate(prompts[:3]):
        world.run(Request(key, prompt, 1))
    assert computed(world, Request(3, prompts[0], 1)) == 1  # now 1 is the oldest
    world.run(Request(4, prompts[3], 1))
    world.run(Request(5, prompts[4], 1))
    assert computed(world, Request(6, prompts[0], 1)) == 1
    assert computed(world, Request(7, prompts[1], 1)) == 4


def test_the_far_end_of_a_prefix_is_evicted_first() -> None:
    world = World(num_blocks=5)
    world.run(Request(0, TEXTS[0][:12], 1))
    world.run(Request(1, (1, 1, 1, 1), 1))
    assert computed(world, Request(2, TEXTS[0][:12], 1)) == 4


def test_a_prefix_outlives_what_was_written_behind_it() -> None:
    head, old, new = (TEXTS[0][at : at + 4] for at in (0, 8, 16))
    world = World(num_blocks=6)
    world.run(Request(0, head + old, 1))
    world.run(Request(1, head + new, 1))
    world.run(Request(2, TEXTS[1][:12], 1))  # two blocks were free, one is evicted
    assert computed(world, Request(3, head + new, 1)) == 1
    assert computed(world, Request(4, head + old, 1)) == 4


def test_nobody_overtakes_for_want_of_room() -> None:
    world = World(num_blocks=6)
    world.submit(Request(0, (1,) * 11, 3), Request(1, (2,) * 12, 3), Request(2, (3,), 3))
    world.step()
    assert (world.scheduler.num_running, world.scheduler.num_waiting) == (1, 2)
    world.drain()


def test_preempted_sequences_resume_where_they_were() -> None:
    asked = [Request(k, TEXTS[k % 2][: 5 + k], 30, target_ids=(1, 2), num_scored=2) for k in (1, 2)]
    world = World(num_blocks=12)
    assert world.run(*asked) == wanted(*asked)
    found = world.scheduler.statistics()
    assert found["preemptions"] > 0
    assert found["generated_tokens"] == 60


class _At(Stop):
    """Ends a text of 20 ids, and leaves none of them."""

    def cut(self, ids: Iterable[int], limit: int) -> tuple[int, tuple[int, ...], int] | None:
        return (0, (1, 2, 3), 0) if len(tuple(ids)) == 20 else None


def test_what_others_store_is_not_cut() -> None:
    """A sequence that comes back behind what another one stored may be cut in the midst of it."""
    prompt = PROMPT[:5]
    whole = expected(Request(0, prompt, 20)).outcome[1]
    other = Request(0, (*prompt, *whole[:11]), 30)
    stopped = Request(
        1, prompt, 30, stop=_At(tuple(range(VOCAB)), 0), target_ids=(1,), num_scored=1
    )
    world = World(num_blocks=13)
    assert world.run(other, stopped) == wanted(other, stopped)
    assert world.scheduler.statistics()["preemptions"] > 0
    last = Request(2, other.prompt_ids, 3)
    assert world.run(last) == wanted(last)


@pytest.mark.parametrize("how", ["key", "group", "abort"])
def test_cancellation_frees_blocks(how: str) -> None:
    world = World(num_blocks=30)
    world.submit(*(Request(key, (key, *PROMPT[:8]), 30, group=7) for key in (0, 1)))
    for _ in range(5):
        world.step()
    assert world.scheduler.num_running == 2
    before = world.scheduler.num_free_blocks
    cancel: dict[str, Callable[[], None]] = {
        "key": lambda: world.cancel(key=1),
        "group": lambda: world.cancel(group=7),
        "abort": world.abort,
    }
    cancel[how]()
    assert world.scheduler.num_free_blocks == (before + 4 if how == "key" else 29)
    world.drain()
    assert world.run(Request(2, TEXTS[1][:9], 3)) == wanted(Request(2, TEXTS[1][:9], 3))


def test_right_drafts_save_steps() -> None:
    request = Request(0, PROMPT, 30)
    draft = expected(request).outcome[1]
    steps = {}
    for name, ids in {"none": (), "right": draft, "wrong": ((draft[0] + 1) % VOCAB,) * 30}.items():
        world = World(num_blocks=40, draft_tokens=64 if name != "none" else 0)
        world.run(request._replace(draft_ids=ids))
        steps[name] = world.steps
    # 8 drafted and one chosen, 16 and one, the rest.
    assert steps["none"] == 30
    assert steps["right"] == 3
    assert steps["right"] < steps["wrong"] <= 30


def test_decoding_goes_before_prefill() -> None:
    world = World(num_blocks=40, max_tokens=4)
    world.submit(Request(0, PROMPT[:3], 9))
    world.step()
    world.submit(Request(1, TEXTS[1][:30], 1))
    assert [world.step()[:2] for _ in range(3)] == [(4, 2)] * 3


def test_the_models_language_is_worth_the_name() -> None:
    written = expected(Request(0, PROMPT, 200)).outcome[1]
    assert set(written) == set(range(VOCAB))
    assert next_id(state_of(PROMPT)) == written[0]
