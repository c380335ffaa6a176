"""Stop texts in both engines: what is written is the greedy text up to the first of them."""

import functools
import random
from collections.abc import Sequence
from typing import Any

import pytest

from greater_fast.engine import Engine, Rollout, RolloutRequest
from greater_fast.model.text.stop_texts import Cut, StopTexts
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.plain import PlainRolloutEngine
from tests.cases import tiny_lm

LIMIT = 24
TARGET, SCORED = (50, 51, 52), 2
ENGINES = pytest.mark.parametrize("make", ["paged", "drafting", "small pool", "plain"])


def engine_of(make: str) -> Engine:
    lm = tiny_lm()
    if make == "plain":
        return PlainRolloutEngine(lm, batch_size=4, temperature=0.2)
    more = {"drafting": {"draft_tokens": 64}, "small pool": {"kv_cache_bytes": 9 * 16 * 2 * 384}}
    return RolloutEngine(lm, temperature=0.2, **more.get(make, {}))  # type: ignore[arg-type]


def requests(ids: Sequence[tuple[int, ...]], **more: Any) -> list[RolloutRequest]:
    return [
        RolloutRequest(
            prompt_ids=own,
            max_new_tokens=LIMIT,
            end_ids=tiny_lm().end_ids,
            prompt_span=(1, len(own)),
            target_ids=TARGET,
            num_scored=SCORED,
            max_answer_tokens=8,
            **more,
        )
        for own in ids
    ]


def prompts(number: int = 12) -> list[tuple[int, ...]]:
    rng = random.Random(3)
    return [(0, *rng.choices(range(3, 1200), k=4 + 5 * (i * 3 % 7))) for i in range(number)]


@functools.cache
def unstopped() -> tuple[Rollout, ...]:
    return tuple(r for r in engine_of("plain").run(requests(prompts())) if r)


def common_texts(texts: Sequence[str], number: int) -> list[str]:
    """Two letters that stand inside of many texts, and often in one token."""
    pairs = [text[i : i + 2] for text in texts for i in range(4, len(text) - 1)]
    found = sorted(set(pairs), key=lambda pair: (-pairs.count(pair), pair))
    return [pair for pair in found if "\ufffd" not in pair][:number]


def cut_text(text: str, stops: StopTexts) -> tuple[str, str | None]:
    """The oracle: the text before the first stop text in it."""
    places = [(text.index(stop), stop) for stop in stops.texts if stop in text]
    place, stop = min(places, default=(len(text), None))
    return text[:place], stop


@ENGINES
def test_reasoning_and_answer_end_before_the_first_stop_text(make: str) -> None:
    own = tiny_lm().vocabulary
    reasonings = [own.text(r.reasoning_ids) for r in unstopped()]
    stop = StopTexts(own, common_texts(reasonings, 3))
    found = engine_of(make).run(requests(prompts(), stop=stop))
    ended = 0
    for text, whole, rollout in zip(reasonings, unstopped(), found, strict=True):
        assert rollout is not None
        assert len(rollout.reasoning_ids) <= LIMIT
        expected, by = cut_text(text, stop)
        assert own.text(rollout.reasoning_ids) == expected
        assert rollout.stop_text == by
        assert rollout.end_id == (None if by else whole.end_id)
        ended += by is not None
    assert 4 <= ended < len(found)


@ENGINES
def test_what_follows_a_cut_reasoning_is_of_its_ids_alone(make: str) -> None:
    """Scores and answers are those of a request whose prompt has the reasoning in it."""
    own = tiny_lm().vocabulary
    stop = StopTexts(own, common_texts([own.text(r.reasoning_ids) for r in unstopped()], 3))
    found = engine_of(make).run(requests(prompts(), stop=stop, draft_ids=(7, 8, 9)))
    afterwards = [
        RolloutRequest(
            prompt_ids=(*ids, *rollout.reasoning_ids),
            max_new_tokens=0,
            end_ids=tiny_lm().end_ids,
            prompt_span=(1, len(ids)),
            target_ids=TARGET,
            num_scored=SCORED,
            max_answer_tokens=8,
        )
        for ids, rollout in zip(prompts(), found, strict=True)
        if rollout
    ]
    for rollout, again in zip(found, engine_of("plain").run(afterwards), strict=True):
        assert rollout is not None
        assert again is not None
        assert rollout.answer_ids == again.answer_ids
        assert rollout.answer_logprobs == pytest.approx(again.answer_logprobs, abs=1e-3)
        assert rollout.prompt_nll == pytest.approx(again.prompt_nll, abs=1e-4)


@ENGINES
def test_answers_have_stop_texts_of_their_own(make: str) -> None:
    own = tiny_lm().vocabulary
    answers = [own.text(r.answer_ids) for r in unstopped()]
    stop = StopTexts(own, common_texts(answers, 4))
    found = engine_of(make).run(requests(prompts(), answer_stop=stop))
    for text, whole, rollout in zip(answers, unstopped(), found, strict=True):
        assert rollout is not None
        assert own.text(rollout.answer_ids) == cut_text(text, stop)[0]
        assert rollout.reasoning_ids == whole.reasoning_ids
        assert rollout.stop_text is None
    assert sum(own.text(r.answer_ids) != text for r, text in zip(found, answers, strict=True)) > 2


@ENGINES
def test_an_error_of_a_cut_leaves_the_engine_as_it_was(
    make: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tiny_lm().vocabulary
    stop = StopTexts(own, common_texts([own.text(r.reasoning_ids) for r in unstopped()], 1))
    engine, broken = engine_of(make), StopTexts(own, stop.texts)
    assert broken.last_ids

    def fail(ids: Sequence[int], limit: int) -> Cut | None:
        raise RuntimeError("no text")

    monkeypatch.setattr(broken, "cut", fail)
    with pytest.raises(RuntimeError, match="no text"):
        engine.run(requests(prompts(), stop=broken))
    again = engine.run(requests(prompts()[:3]))
    assert [r and r.reasoning_ids for r in again] == [r.reasoning_ids for r in unstopped()[:3]]
