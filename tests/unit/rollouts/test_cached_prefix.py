"""What the scheduler says is stored of some ids can be read there, and asking changes nothing."""

import random

import pytest

from tests.unit.hash_language import VOCAB, expected, state_of
from tests.unit.rollouts.scheduling.scheduler_model import Request, World

PROMPT = tuple((3 * i * i + i) % VOCAB for i in range(23))


def stored(world: World, ids: tuple[int, ...]) -> int:
    """How many of the first ids are stored, each of them read and found right."""
    num_tokens, blocks = world.scheduler.cached_prefix(ids)
    assert 0 <= num_tokens <= len(ids)
    assert len(blocks) == -(-num_tokens // world.block_size)
    size = world.block_size
    slots = [blocks[i // size] * size + i % size for i in range(num_tokens)]
    assert world._read(slots) == state_of(ids[:num_tokens])
    return num_tokens


def test_it_is_exact_to_the_token() -> None:
    world = World(num_blocks=30, block_size=4)
    assert stored(world, PROMPT) == 0
    assert stored(world, ()) == 0
    world.run(Request(0, PROMPT, 3))
    assert stored(world, (*PROMPT, 1, 2)) == len(PROMPT)
    for length in range(len(PROMPT) + 1):
        assert stored(world, PROMPT[:length]) == length
        changed = (PROMPT[length - 1] + 1) % VOCAB
        if length:
            assert stored(world, (*PROMPT[: length - 1], changed, 3, 4)) == length - 1


def test_what_is_not_computed_yet_is_not_stored() -> None:
    world = World(num_blocks=30, block_size=4, max_tokens=6)
    world.submit(Request(0, PROMPT, 3))
    found = []
    while not world.scheduler.idle:
        counts = world.plan()
        found.append(stored(world, PROMPT))
        world.commit(counts)
        stored(world, PROMPT)
    assert found[:4] == [0, 4, 12, 16]  # whole blocks of 6, 12 and 18 tokens
    assert found[-1] == len(PROMPT)


def test_without_sharing_nothing_is_stored() -> None:
    world = World(num_blocks=30, share_prefixes=False)
    world.run(Request(0, PROMPT, 3))
    assert stored(world, PROMPT) == 0


@pytest.mark.parametrize("seed", range(4))
def test_in_a_small_pool_that_evicts(seed: int) -> None:
    rng = random.Random(seed)
    world = World(num_blocks=14, block_size=rng.choice((1, 3, 4)) if seed else 4, max_tokens=16)
    room = 13 * world.block_size
    asked = [
        Request(key, (*PROMPT[: rng.randrange(1, 6)], *rng.choices(range(VOCAB), k=3)), 2)
        for key in range(12)
    ]
    waiting = [request for request in asked if request.longest <= room]
    seen = set()
    while waiting or not world.scheduler.idle:
        if waiting and rng.random() < 0.4:
            world.submit(waiting.pop())
        if not world.scheduler.idle:
            free = world.scheduler.num_free_blocks
            seen.update(stored(world, request.prompt_ids) for request in asked)
            assert world.scheduler.num_free_blocks == free
            world.step()
    assert len(seen) > 2
    for request in asked:
        if request.key in world.finished:
            assert world.finished[request.key] == expected(request).outcome
