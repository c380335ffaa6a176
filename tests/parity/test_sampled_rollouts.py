"""Sampled text is as lossless as greedy text: the same with every feature on or off."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from greater_fast.engine import Rollout, RolloutRequest
from greater_fast.kernels.vocabulary.noise import gumbel_noise
from greater_fast.model.lm import LM
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.plain import PlainRolloutEngine
from tests.parity.test_rollout_engine import FAMILIES, FEATURES, check, engine, requests, tiny_lm

SAMPLING = {"sampling_temperature": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def lm() -> LM:
    return tiny_lm("llama", "llama3")


def sampled_requests(lm: LM, max_answer_tokens: int = 0) -> list[RolloutRequest]:
    """Three prompts, one token apart, behind six heads; a head's number is its sample key."""
    asked = requests(lm, max_answer_tokens)
    return [replace(r, sample_key=number % 6) for number, r in enumerate(asked)]


def texts(rollouts: list[Rollout | None]) -> list[tuple[int, ...]]:
    return [r.reasoning_ids for r in rollouts if r is not None]


@pytest.mark.parametrize(
    "features", [f for f in FEATURES[1:] if f.get("kernels") != "reference"], ids=str
)
def test_features_change_no_bit(lm: LM, features: dict[str, Any]) -> None:
    asked = sampled_requests(lm, max_answer_tokens=6)
    expected = engine(lm, SAMPLING).run(asked)
    if "draft_tokens" in features:  # each guesses at what the prompt before came to
        drafts = texts(expected)
        asked = [replace(r, draft_ids=drafts[i - 6]) for i, r in enumerate(asked)]
    found = engine(lm, features | SAMPLING)
    assert found.run(asked) == expected
    assert found.run(asked[::-1]) == expected[::-1]  # from stored prefixes, in another order
    found.check_integrity()
    if "num_blocks" in features:
        assert found.statistics["preemptions"] > 0
    if "draft_tokens" in features:
        assert found.statistics["accepted_tokens"] > 0


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_equals_the_plain_engine(family: str, kind: str) -> None:
    lm = tiny_lm(family, kind)
    asked = sampled_requests(lm, max_answer_tokens=6)
    expected = PlainRolloutEngine(lm, 5, 0.2, **SAMPLING).run(asked)
    check(engine(lm, SAMPLING).run(asked), expected)
    assert texts(engine(lm, {}).run(asked)) != texts(expected)


def drawn(asked: list[RolloutRequest]) -> list[RolloutRequest]:
    return [replace(r, is_draw=True) for r in asked]


@pytest.mark.parametrize("features", [{}, {"draft_tokens": 24}, {"fixed": True}], ids=str)
def test_draws_are_samples_beside_greedy_text(lm: LM, features: dict[str, Any]) -> None:
    """In one batch; each is what an engine writes that decodes all in its way."""
    asked = sampled_requests(lm, max_answer_tokens=6)
    sampled, greedy = engine(lm, SAMPLING).run(asked), engine(lm, {}).run(asked)
    found = engine(lm, features | {"draws": True, "seed": 3})
    mixed = [r if i % 2 else replace(r, is_draw=True) for i, r in enumerate(asked)]
    expected = [greedy[i] if i % 2 else sampled[i] for i in range(len(asked))]
    check(found.run(mixed), expected)
    check(found.run(asked), greedy)
    check(engine(lm, {"draws": True, **SAMPLING}).run(asked), sampled)
    plain = PlainRolloutEngine(lm, 5, 0.2, draws=True, seed=3)
    check(plain.run(drawn(asked)), sampled)
    check(plain.run(asked), greedy)


def test_draws_are_refused_where_there_is_no_noise_for_them(lm: LM) -> None:
    asked = drawn(sampled_requests(lm))
    for greedy in (engine(lm, {}), PlainRolloutEngine(lm)):
        with pytest.raises(
            ValueError, match="a draw is asked for, and the engine decodes greedily"
        ):
            greedy.run(asked)
        assert greedy.run(sampled_requests(lm)[:1]) != [None]
    with pytest.raises(ValueError, match=r"got 0\.5, expected 0 or 1, as draws"):
        engine(lm, {"sampling_temperature": 0.5, "draws": True})


def test_hits_are_those_of_the_argmax_without_noise(lm: LM) -> None:
    """Also where the row that ends the reasoning is the row of the first scored token."""
    asked = [replace(r, num_scored=5) for r in sampled_requests(lm)]
    likely = engine(lm, {}).next_logits([r.prompt_ids for r in asked]).argmax(-1).tolist()
    everything = frozenset(range(lm.vocab_size))  # the first token ends the reasoning
    asked = [
        replace(r, target_ids=(token, *r.target_ids[1:]), end_ids=everything)
        for r, token in zip(asked, likely, strict=True)
    ]
    noisy = engine(lm, {"sampling_temperature": 50.0}).run(asked)
    greedy = engine(lm, {}).run(asked)
    for own, plain in zip(noisy, greedy, strict=True):
        assert own is not None
        assert plain is not None
        assert replace(own, end_id=plain.end_id) == plain
    assert [r.end_id for r in greedy if r] == likely
    assert all(r is not None and r.reasoning_ids == () and r.answer_hits[0] for r in noisy)


def test_scores_of_the_same_text_are_those_of_greedy_decoding(lm: LM) -> None:
    asked = sampled_requests(lm)
    sampled = engine(lm, SAMPLING).run(asked)
    again = [
        replace(r, prompt_ids=r.prompt_ids + text, max_new_tokens=0)
        for r, text in zip(asked, texts(sampled), strict=True)
    ]
    for found, scored in zip(sampled, engine(lm, {}).run(again), strict=True):
        assert found is not None
        assert scored is not None
        assert found.answer_hits == scored.answer_hits
        assert found.answer_logprobs == pytest.approx(scored.answer_logprobs, abs=1e-5)


def test_next_logits_have_no_noise(lm: LM) -> None:
    contexts = [r.prompt_ids for r in requests(lm)]
    logits = engine(lm, {"sampling_temperature": 50.0}).next_logits(contexts)
    assert torch.equal(logits, engine(lm, {}).next_logits(contexts))


def test_prompts_of_different_lengths_meet_the_same_noise(lm: LM) -> None:
    """So hot that the noise alone decides."""
    asked = [
        RolloutRequest(tuple(range(5, 5 + n)), 6, frozenset({4}), sample_key=key)
        for n, key in ((3, 0), (30, 0), (30, 1))
    ]
    hot = {"sampling_temperature": 1e6, "seed": 3}
    places = torch.arange(6)
    written = [
        tuple(gumbel_noise(3, torch.full((6,), key), places, lm.vocab_size).argmax(-1).tolist())
        for key in (0, 0, 1)
    ]
    assert texts(engine(lm, hot).run(asked)) == written
    assert texts(PlainRolloutEngine(lm, 2, **hot).run(asked)) == written


def test_the_seed_decides(lm: LM) -> None:
    asked = sampled_requests(lm)
    first, same, other = (
        texts(engine(lm, {"sampling_temperature": 0.5, "seed": seed}).run(asked))
        for seed in (0, 0, 1)
    )
    assert first == same
    assert first != other


def test_almost_no_temperature_is_greedy(lm: LM) -> None:
    asked = sampled_requests(lm)
    assert engine(lm, {"sampling_temperature": 1e-9}).run(asked) == engine(lm, {}).run(asked)


def test_wrong_settings(lm: LM) -> None:
    with pytest.raises(ValueError, match="sampling_temperature: got -1"):
        RolloutEngine(lm, kv_cache_bytes=1, sampling_temperature=-1)
    with pytest.raises(ValueError, match="sampling_temperature: got -1"):
        PlainRolloutEngine(lm, sampling_temperature=-1)
    sampling = engine(lm, SAMPLING)
    with pytest.raises(ValueError, match="sample_key: "):
        sampling.run([replace(requests(lm)[0], sample_key="a")])  # type: ignore[arg-type]
    assert len(sampling.run(requests(lm)[:1])) == 1
