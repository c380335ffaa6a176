"""The C++ scheduler beside a model of its world: whatever it is asked, nothing may change."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.hash_language import TEXTS, VOCAB, Request, Stop, expected
from tests.unit.rollouts.scheduling.scheduler_model import World

IDS = st.integers(0, VOCAB - 1)
STOPS = st.one_of(
    st.none(), st.builds(Stop, st.lists(IDS, min_size=1, max_size=3).map(tuple), st.integers(0, 99))
)


@st.composite
def drafts(draw: st.DrawFn, request: Request) -> tuple[int, ...]:
    """Right, right at first, wrong in one place, or wrong."""
    right = expected(request).outcome[1]
    kind = draw(st.sampled_from(("none", "right", "cut", "changed", "wrong")))
    at = draw(st.integers(0, len(right)))
    return {
        "none": (),
        "right": right,
        "cut": right[:at],
        "changed": (*right[:at], draw(IDS), *right[at + 1 :], *right),
        "wrong": tuple(draw(st.lists(IDS, max_size=12))),
    }[kind]


@st.composite
def requests(draw: st.DrawFn, key: int) -> Request:
    prompt = draw(st.sampled_from(TEXTS))[: draw(st.integers(0, 40))]
    prompt += tuple(draw(st.lists(IDS, min_size=not prompt, max_size=4)))
    span = (0, 0)
    if len(prompt) > 1 and draw(st.booleans()):
        start = draw(st.integers(1, len(prompt) - 1))
        span = (start, draw(st.integers(start, len(prompt))))
    target = tuple(draw(st.lists(IDS, max_size=6)))
    num_scored = draw(st.integers(0, len(target)))
    num_answer = draw(st.sampled_from((0, 0, 1, 5))) if target else 0
    request = Request(
        key=key,
        group=draw(st.integers(0, 3)),
        prompt_ids=prompt,
        prompt_span=span,
        target_ids=target,
        num_scored=num_scored,
        max_new_tokens=draw(
            st.sampled_from((1, 2, 7, 30) + ((0,) if num_scored or num_answer else ()))
        ),
        max_answer_tokens=num_answer,
        end_ids=draw(st.sampled_from(((), (6,), (5, 6)))),
        stop=draw(STOPS),
        answer_stop=draw(STOPS),
    )
    return request._replace(draft_ids=draw(drafts(request)))


@st.composite
def worlds(draw: st.DrawFn, longest: int) -> dict[str, Any]:
    """Settings of a scheduler whose pool and tables hold one sequence of that length, at least."""
    block_size = draw(st.integers(1, 16))
    least = -(-longest // block_size)
    max_tokens = draw(st.one_of(st.integers(1, 8), st.integers(1, 64), st.just(512)))
    return {
        "block_size": block_size,
        "num_blocks": 1 + least + draw(st.sampled_from((0, 0, 1, 2, 5, 20, 400))),
        "table_width": least + draw(st.integers(0, 2)),
        "max_tokens": max_tokens,
        "max_sequences": draw(st.integers(1, max_tokens)),
        "min_tokens": draw(st.integers(0, max_tokens)),
        "draft_tokens": draw(st.sampled_from((0, max_tokens, max_tokens // 2))),
        "share_prefixes": draw(st.booleans()),
        "fixed_tokens": draw(st.booleans()),
    }


CASES = st.lists(st.integers(1, 12), min_size=1, max_size=3).flatmap(
    lambda sizes: st.tuples(
        *(st.tuples(*(requests(100 * w + i) for i in range(n))) for w, n in enumerate(sizes))
    )
)
THOROUGH = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


def build(data: st.DataObject, waves: tuple[tuple[Request, ...], ...]) -> World:
    return World(**data.draw(worlds(max(r.longest for wave in waves for r in wave))))


@THOROUGH
@given(CASES, st.data())
def test_every_request_comes_to_what_it_would_alone(
    waves: tuple[tuple[Request, ...], ...], data: st.DataObject
) -> None:
    world = build(data, waves)
    for wave in waves:
        assert world.run(*wave) == [expected(request).outcome for request in wave]
    counts, found = world.counts, world.scheduler.statistics()
    assert found["steps"] == world.steps
    assert found["logit_rows"] == counts.num_logit_rows
    assert found["padding_tokens"] == counts.num_padding
    assert found["computed_tokens"] == counts.num_tokens - counts.num_padding
    assert 0 <= found["accepted_tokens"] <= found["drafted_tokens"]
    assert 0 <= found["shared_tokens"] <= found["prompt_tokens"]
    alone = [expected(request) for wave in waves for request in wave]
    assert found["generated_tokens"] == sum(e.num_generated for e in alone)
    is_stopped = any(request.stop for wave in waves for request in wave)  # and computed again
    if not found["preemptions"] and not is_stopped:
        wrong = found["drafted_tokens"] - found["accepted_tokens"]
        needed = sum(e.num_computed for e in alone)
        assert found["computed_tokens"] - wrong + found["shared_tokens"] == needed


@settings(THOROUGH, max_examples=60)
@given(CASES, st.data())
def test_sampled_ids_are_written_while_hits_are_the_argmax(
    waves: tuple[tuple[Request, ...], ...], data: st.DataObject
) -> None:
    worlds_of = worlds(max(r.longest for wave in waves for r in wave))
    world = World(**data.draw(worlds_of), samples=True)
    for wave in waves:
        assert world.run(*wave) == [expected(request, True).outcome for request in wave]


@THOROUGH
@given(CASES, st.data())
def test_cancelled_requests_disturb_no_other(
    waves: tuple[tuple[Request, ...], ...], data: st.DataObject
) -> None:
    world = build(data, waves)
    event = st.tuples(st.sampled_from(("key", "group", "abort", "submit")), st.integers(0, 12))
    for number, wave in enumerate(waves):
        late = wave[len(wave) // 2 :]
        world.submit(*wave[: len(wave) // 2])
        for kind, which in data.draw(st.lists(event, max_size=8)):
            for _ in range(which):
                world.step()
            if kind == "key":
                world.cancel(key=100 * number + which)
            elif kind == "group":
                world.cancel(group=which % 4)
            elif kind == "abort" and which > 9:
                world.abort()
            else:
                world.submit(*late)
                late = ()
        world.submit(*late)
        world.drain()
    asked = {request.key: request for wave in waves for request in wave}
    for key, outcome in world.finished.items():
        assert outcome == expected(asked[key]).outcome
