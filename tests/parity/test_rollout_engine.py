"""The continuous batch gives what transformers' generate gives, with every feature on or off."""

import random
from typing import Any

import pytest
import torch

from greater_fast.engine import Rollout, RolloutRequest
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.plain import PlainRolloutEngine
from tests.tiny import tiny_model, tiny_tokenizer

FAMILIES = [
    ("llama", "llama3"),
    ("gemma2", "sentencepiece"),
    ("qwen2", "llama3"),
    ("qwen3", "llama3"),
]
TEMPERATURE = 0.2
FEATURES: list[dict[str, Any]] = [
    {},
    {"share_prefixes": False},
    {"draft_tokens": 64},
    {"max_tokens": 16},
    {"max_tokens": 16, "draft_tokens": 16},
    {"fixed": True},
    {"num_blocks": 9},
    {"num_blocks": 9, "draft_tokens": 20, "max_tokens": 20},
    {"kernels": "reference"},
    {"kernels": "reference", "fixed": True, "max_tokens": 24},
    {"kernels": "reference", "num_blocks": 9, "draft_tokens": 20, "max_tokens": 20},
]


def tiny_lm(family: str, kind: str) -> LM:
    tokenizer = tiny_tokenizer(kind)
    return load_lm((tiny_model(family, len(tokenizer)), tokenizer))


def requests(lm: LM, max_answer_tokens: int = 0) -> list[RolloutRequest]:
    """Three prompts, one token apart, behind six heads of different lengths."""
    rng = random.Random(0)
    draw = lambda n: [rng.randrange(5, lm.vocab_size) for _ in range(n)]  # noqa: E731
    heads, prompt, tail = [draw(rng.randrange(8, 40)) for _ in range(6)], draw(9), draw(3)
    prompts = [[*prompt[:at], 17, *prompt[at + 1 :]] for at in range(3)]
    return [
        RolloutRequest(
            prompt_ids=(*head, *own, *tail),
            max_new_tokens=20,
            end_ids=lm.end_ids,
            prompt_span=(len(head), len(head) + len(own)),
            target_ids=(7, 8, 9, 10, 11),
            num_scored=3,
            max_answer_tokens=max_answer_tokens,
            group=group,
        )
        for group, own in enumerate(prompts)
        for head in heads
    ]


def engine(lm: LM, features: dict[str, Any]) -> RolloutEngine:
    given = dict(features)
    if "num_blocks" in given:
        one = RolloutEngine(lm, kv_cache_bytes=1)
        given["kv_cache_bytes"] = given.pop("num_blocks") * one.block_bytes
    given.setdefault("kv_cache_bytes", 1 << 24)
    return RolloutEngine(lm, temperature=TEMPERATURE, poisoned=True, **given)


def check(found: list[Rollout | None], expected: list[Rollout | None]) -> None:
    for own, plain in zip(found, expected, strict=True):
        assert own is not None
        assert plain is not None
        assert own.reasoning_ids == plain.reasoning_ids
        assert own.end_id == plain.end_id
        assert own.answer_ids == plain.answer_ids
        assert own.answer_hits == plain.answer_hits
        assert own.answer_logprobs == pytest.approx(plain.answer_logprobs, rel=1e-4, abs=1e-4)
        assert own.prompt_nll == pytest.approx(plain.prompt_nll, rel=1e-5)


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
@pytest.mark.parametrize("features", FEATURES, ids=str)
def test_equals_the_plain_engine(family: str, kind: str, features: dict[str, Any]) -> None:
    lm = tiny_lm(family, kind)
    asked = requests(lm)
    expected = PlainRolloutEngine(lm, 32, TEMPERATURE).run(asked)
    paged = engine(lm, features)
    check(paged.run(asked), expected)
    paged.check_integrity()
    check(paged.run(asked), expected)  # from stored prefixes
    paged.check_integrity()


@pytest.mark.parametrize(("family", "kind"), FAMILIES[:2])
def test_plain_torch_equals_csrc_in_float64(family: str, kind: str) -> None:
    tokenizer = tiny_tokenizer(kind)
    lm = load_lm((tiny_model(family, len(tokenizer), torch.float64), tokenizer))
    asked = requests(lm)[::3]
    paged = engine(lm, {"kernels": "reference"})
    check(paged.run(asked), engine(lm, {}).run(asked))
    assert not paged.batch_invariant


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_plain_torch_takes_weights_of_16_bits(dtype: torch.dtype) -> None:
    """On any device: the model is accepted, and its logits behind two contexts are its own."""
    tokenizer = tiny_tokenizer("llama3")
    lm = load_lm((tiny_model("llama", len(tokenizer), dtype), tokenizer))
    contexts = [tuple(range(3, 3 + length)) for length in (2, 21)]
    found = engine(lm, {"kernels": "reference"}).next_logits(contexts)
    with torch.inference_mode():
        own = torch.cat([lm.model(torch.tensor([ids])).logits[0, -1:] for ids in contexts])
    assert ((found - own).norm(dim=-1) < 0.03 * own.norm(dim=-1)).all()


@pytest.mark.parametrize("features", [{}, {"fixed": True}, {"kernels": "reference"}], ids=str)
def test_logits_behind_contexts_longer_than_a_step(features: dict[str, Any]) -> None:
    """A step that is all one prefill reads no row, as the first of a run that goes on may be."""
    lm = tiny_lm("llama", "llama3")
    contexts = [tuple(5 + number % 300 for number in range(size)) for size in (70, 9, 150)]
    found = engine(lm, {**features, "max_tokens": 16}).next_logits(contexts)
    expected = PlainRolloutEngine(lm, 32, TEMPERATURE).next_logits(contexts)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("number", [1, 3])
def test_a_run_within_a_run_is_refused(number: int) -> None:
    """Its sequences would be taken for those of the run around it, or its tokens counted twice."""
    lm = tiny_lm("llama", "llama3")
    asked, own = requests(lm)[:number], engine(lm, {})

    def told(number: int, rollout: Rollout | None) -> tuple[int, ...]:
        own.next_logits([(5, 6, 7)])
        return ()

    with pytest.raises(RuntimeError, match="the engine is at work"):
        own.run(asked, told)
    own.check_integrity()
    check(own.run(asked), PlainRolloutEngine(lm, 32, TEMPERATURE).run(asked))


@pytest.mark.parametrize(("family", "kind"), FAMILIES[:2])
def test_answers_are_generated_behind_the_target(family: str, kind: str) -> None:
    lm = tiny_lm(family, kind)
    asked = requests(lm, max_answer_tokens=6)
    expected = PlainRolloutEngine(lm, 32, TEMPERATURE).run(asked)
    assert len({r.answer_ids for r in expected if r}) > 1
    check(engine(lm, {}).run(asked), expected)
