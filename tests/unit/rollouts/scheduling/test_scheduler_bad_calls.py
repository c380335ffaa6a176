"""Wrong calls of scheduler and engine: a ValueError that says why, and then it goes on."""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from greater_fast._core import Scheduler
from greater_fast._core import Stop as CoreStop
from greater_fast.engine import Rollout, RolloutRequest
from greater_fast.model.kv_cache import block_bytes
from greater_fast.model.lm import LM
from greater_fast.rollouts.batch import RolloutEngine
from tests.unit.hash_language import VOCAB, Request, Stop, expected
from tests.unit.rollouts.scheduling.scheduler_model import World, buffers_for

CONFIG = {
    "num_blocks": 9,
    "block_size": 4,
    "table_width": 6,
    "max_tokens": 8,
    "max_sequences": 8,
    "vocab_size": VOCAB,
}
GOOD = Request(1, (1, 2, 3, 4, 5), 6, prompt_span=(1, 3), target_ids=(1, 2), num_scored=1)


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("name", buffers_for(8, 8, 6))
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.astype(np.int64), "got dtype int64, expected int32"),
        (lambda a: a.astype(np.float32), "got dtype float32, expected int32"),
        (lambda a: a[: len(a) - 4], "expected at least"),
        (lambda a: np.repeat(a, 2)[::2], "expected a contiguous array"),
        (read_only, "expected a writable array"),
        (lambda a: a.tolist(), "expected a numpy array"),
    ],
)
def test_wrong_buffers(name: str, change: Callable[[Any], Any], message: str) -> None:
    buffers = buffers_for(8, 8, 6)
    buffers[name] = change(buffers[name])
    with pytest.raises(ValueError, match=f"{name}: .*{message}"):
        Scheduler(buffers, **CONFIG)


@pytest.mark.parametrize("name", buffers_for(8, 8, 6))
def test_missing_buffers(name: str) -> None:
    buffers = buffers_for(8, 8, 6)
    del buffers[name]
    with pytest.raises(ValueError, match=f"buffers: {name} is missing"):
        Scheduler(buffers, **CONFIG)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_blocks", 1),
        ("num_blocks", -1),
        ("num_blocks", 2**30),
        ("block_size", 0),
        ("table_width", 0),
        ("table_width", -1),
        ("max_tokens", 0),
        ("max_sequences", 0),
        ("max_sequences", 9),
        ("min_tokens", 9),
        ("min_tokens", -1),
        ("draft_tokens", 9),
        ("draft_tokens", -1),
        ("vocab_size", 0),
    ],
)
def test_wrong_settings(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected"):
        Scheduler(buffers_for(8, 8, 6), **{**CONFIG, name: value})


def test_the_arrays_outlive_the_callers_dictionary() -> None:
    world = World(**CONFIG)
    kept = dict(world.buffers)
    arrays = {name: array.ctypes.data for name, array in kept.items()}
    world.buffers.clear()
    world.buffers.update(kept)
    assert world.run(GOOD) == [expected(GOOD).outcome]
    assert {name: array.ctypes.data for name, array in world.buffers.items()} == arrays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_ids": ()}, "prompt_ids is empty"),
        ({"prompt_ids": (1, -1)}, "prompt_ids holds the id -1, expected 0 to 6"),
        ({"prompt_ids": (7, 1)}, "prompt_ids holds the id 7, expected 0 to 6"),
        ({"draft_ids": (-1,)}, "draft_ids holds the id -1, expected 0 to 6"),
        ({"draft_ids": (1, 7)}, "draft_ids holds the id 7, expected 0 to 6"),
        ({"target_ids": (1, -2)}, "target_ids holds the id -2, expected 0 to 6"),
        ({"target_ids": (1, 9)}, "target_ids holds the id 9, expected 0 to 6"),
        ({"key": 2**31}, "key: expected an int32"),
        ({"key": -(2**31) - 1}, "key: expected an int32"),
        ({"prompt_span": (0, 2)}, "prompt span: expected"),
        ({"prompt_span": (3, 2)}, "prompt span: expected"),
        ({"prompt_span": (2, 6)}, "prompt span: expected"),
        ({"prompt_span": (-1, 2)}, "prompt span: expected"),
        ({"num_scored": 3}, "num_scored: expected"),
        ({"num_scored": -1}, "num_scored: expected"),
        ({"max_new_tokens": -1}, "max_new_tokens and max_answer_tokens: expected 0 or more"),
        ({"max_answer_tokens": -1}, "max_new_tokens and max_answer_tokens: expected 0 or more"),
        ({"max_answer_tokens": 1, "target_ids": (), "num_scored": 0}, "needs target_ids"),
        ({"max_new_tokens": 0, "num_scored": 0}, "nothing to generate and nothing to score"),
        ({"max_new_tokens": 26}, "up to 33 tokens does not fit the K/V pool of 32"),
        ({"max_new_tokens": 2**31 - 1}, "does not fit the K/V pool"),
        ({"prompt_ids": (1,) * 33}, "does not fit the K/V pool of 32"),
        (
            {"max_new_tokens": 18},
            "up to 25 tokens does not fit a table of 6 blocks: make the engine for longer ones",
        ),
    ],
)
def test_wrong_requests(change: dict[str, Any], message: str) -> None:
    world = World(**CONFIG)
    with pytest.raises(ValueError, match=re.escape(message)):
        world.scheduler.submit(**{**GOOD._asdict(), **change})
    assert world.scheduler.idle
    assert world.run(GOOD) == [expected(GOOD).outcome]


WRONG_CALLS: dict[str, tuple[Callable[[World], Any], str]] = {
    "plan twice": (lambda w: w.scheduler.plan(), "plan: the last step is not committed"),
    "cancel in a step": (lambda w: w.scheduler.cancel(1), "cancel: the step is not committed"),
    "cancel a group in a step": (
        lambda w: w.scheduler.cancel_group(0),
        "cancel: the step is not committed",
    ),
    "too few rows": (
        lambda w: w.scheduler.commit(np.zeros(1, np.int32), np.zeros(1, np.float32)),
        "commit: got 1 rows, expected 3",
    ),
    "too many rows": (
        lambda w: w.scheduler.commit(np.zeros(4, np.int32), np.zeros(4, np.float32)),
        "commit: got 4 rows, expected 3",
    ),
    "fewer log-probabilities": (
        lambda w: w.scheduler.commit(np.zeros(3, np.int32), np.zeros(2, np.float32)),
        "logprobs: got 2 elements, expected at least 3",
    ),
    "a negative id": (
        lambda w: w.scheduler.commit(np.array([0, 0, -1], np.int32), np.zeros(3, np.float32)),
        "commit: row 2 says id -1, expected 0 to 6",
    ),
    "an id outside the vocabulary": (
        lambda w: w.scheduler.commit(np.array([0, 7, 0], np.int32), np.zeros(3, np.float32)),
        "commit: row 1 says id 7, expected 0 to 6",
    ),
    "a negative sampled id": (
        lambda w: w.scheduler.commit(
            np.zeros(3, np.int32), np.zeros(3, np.float32), np.array([-1, 0, 0], np.int32)
        ),
        "commit: row 0 says id -1, expected 0 to 6",
    ),
    "fewer sampled ids": (
        lambda w: w.scheduler.commit(
            np.zeros(3, np.int32), np.zeros(3, np.float32), np.zeros(2, np.int32)
        ),
        "sampled: got 2 elements, expected at least 3",
    ),
    "argmax of another type": (
        lambda w: w.scheduler.commit(np.zeros(3, np.int64), np.zeros(3, np.float32)),
        "argmax: got dtype int64, expected int32",
    ),
    "logprobs of another type": (
        lambda w: w.scheduler.commit(np.zeros(3, np.int32), np.zeros(3)),
        "logprobs: got dtype float64, expected float32",
    ),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_wrong_calls_between_plan_and_commit(name: str) -> None:
    call, message = WRONG_CALLS[name]
    world = World(**CONFIG)
    world.submit(GOOD)
    counts = world.plan()
    assert counts.num_logit_rows == 3  # two of the span, one that generates
    with pytest.raises(ValueError, match=re.escape(message)):
        call(world)
    world.scheduler.check_integrity()
    world.commit(counts)
    world.drain()
    assert world.finished == {1: expected(GOOD).outcome}


@pytest.mark.parametrize(
    "name", ["submit", "cancel", "abort", "plan", "take_finished", "cached_prefix"]
)
def test_a_step_is_not_disturbed_by_what_it_calls(name: str) -> None:
    """What cuts a text runs within `commit`, as another thread may."""
    world, told = World(**CONFIG), []
    calls: dict[str, Callable[[], Any]] = {
        "submit": lambda: world.scheduler.submit(**{**GOOD._asdict(), "key": 2}),
        "cancel": lambda: world.scheduler.cancel(1),
        "cached_prefix": lambda: world.scheduler.cached_prefix([1, 2]),
    }

    def cut(ids: list[int], limit: int) -> None:
        with pytest.raises(ValueError, match="scheduler: it is at work on a step") as caught:
            calls.get(name, getattr(world.scheduler, name))()
        told.append(caught.value)

    stop = CoreStop(range(VOCAB), cut)
    world.scheduler.submit(**{**GOOD._asdict(), "stop": stop})
    world.requests[1] = GOOD
    counts = world.plan()
    world.commit(counts)
    assert told
    world.scheduler.abort()
    world.scheduler.check_integrity()
    assert world.scheduler.idle


def test_a_stop_has_a_function() -> None:
    with pytest.raises(ValueError, match="cut: expected a function, got None"):
        CoreStop([1], None)


def test_commit_twice() -> None:
    world = World(**CONFIG)
    world.submit(GOOD)
    nothing = np.zeros(0, np.int32), np.zeros(0, np.float32)
    with pytest.raises(ValueError, match="commit: there is no step to commit"):
        world.scheduler.commit(*nothing)
    world.step()
    with pytest.raises(ValueError, match="commit: there is no step to commit"):
        world.scheduler.commit(*nothing)
    world.drain()
    assert world.finished == {1: expected(GOOD).outcome}


def test_abort_between_plan_and_commit() -> None:
    world = World(**CONFIG)
    world.run(GOOD)
    world.submit(GOOD._replace(key=2, prompt_ids=(1, 2, 3, 4, 6)))
    world.plan()
    world.abort()
    assert world.scheduler.num_free_blocks == 8
    assert world.run(GOOD) == [expected(GOOD).outcome]


def request(lm: LM, num_prompt: int = 20, **fields: Any) -> RolloutRequest:
    return RolloutRequest(tuple(range(5, 5 + num_prompt)), 8, lm.end_ids, **fields)


def test_a_request_longer_than_the_pool_names_what_to_set(lm: LM) -> None:
    engine = RolloutEngine(lm, kv_cache_bytes=3 * block_bytes(lm), poisoned=True)
    before = engine.run([request(lm)])
    message = "request 1: a sequence of up to 58 tokens .* 48 .*kv_cache_bytes"
    with pytest.raises(ValueError, match=message):
        engine.run([request(lm), request(lm, 50), request(lm)])
    engine.check_integrity()
    assert engine.run([request(lm)]) == before


def test_wrong_requests_leave_the_engine_usable(lm: LM) -> None:
    engine = RolloutEngine(lm, kv_cache_bytes=1 << 20, poisoned=True)
    before = engine.run([request(lm)])
    wrong = RolloutRequest((3, -1), 4, lm.end_ids)
    with pytest.raises(ValueError, match="request 1: prompt_ids holds the id -1"):
        engine.run([request(lm), wrong])
    with pytest.raises(ValueError, match="request 0: "):
        engine.run([RolloutRequest(("a",), 4, lm.end_ids)])  # type: ignore[arg-type]
    steps = engine.statistics["steps"]
    for field in ("prompt_ids", "draft_ids", "target_ids"):
        with pytest.raises(ValueError, match=f"request 1: {field} holds the id {lm.vocab_size}"):
            engine.run([request(lm), replace(request(lm), **{field: (3, lm.vocab_size)})])
    with pytest.raises(ValueError, match="request 0: prompt_ids holds the id -3"):
        engine.next_logits([(-3,)])
    assert engine.statistics["steps"] == steps
    assert engine.run([request(lm)]) == before


@pytest.mark.parametrize("cut", [(-1, (), 0), (2, (), 0), (0, (1,) * 7, 0), (0, (VOCAB,), 0)])
def test_a_cut_that_no_text_can_be(cut: tuple[int, tuple[int, ...], int]) -> None:
    class Wrong(Stop):
        def cut(self, ids: Iterable[int], limit: int) -> tuple[int, tuple[int, ...], int]:
            return cut

    world = World(num_blocks=9, max_tokens=8, vocab_size=VOCAB)
    world.submit(GOOD._replace(stop=Wrong(tuple(range(VOCAB)), 0)))
    with pytest.raises(ValueError, match="stop: a cut that no text can be"):
        world.drain()
    with pytest.raises(ValueError, match="plan: the last step is not committed"):
        world.drain()  # what came of the step's other sequences is not known
    world.abort()
    assert world.run(GOOD) == [expected(GOOD).outcome]


def test_an_exception_in_on_finished_leaves_the_engine_usable(lm: LM) -> None:
    engine = RolloutEngine(lm, kv_cache_bytes=1 << 20, poisoned=True)
    asked = [request(lm, n) for n in (20, 9, 14)]
    before = engine.run(asked)

    def fail(number: int, rollout: Rollout) -> set[int]:
        raise KeyError(number)

    with pytest.raises(KeyError):
        engine.run(asked, fail)
    engine.check_integrity()
    assert engine.run(asked) == before


def test_a_dropped_group_gives_none(lm: LM) -> None:
    engine = RolloutEngine(lm, kv_cache_bytes=1 << 20, poisoned=True)
    asked = [request(lm, n, group=n) for n in (20, 9)]
    asked[1] = RolloutRequest(asked[1].prompt_ids, 40, frozenset(), group=9)
    first, other = engine.run(asked, lambda number, rollout: {9})
    assert first == engine.run(asked[:1])[0]
    assert other is None
