import functools
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from greater_fast.config import Config
from greater_fast.engine import RolloutRequest
from greater_fast.model.lm import LM, load_lm
from greater_fast.model.text.stop_texts import StopTexts
from greater_fast.rollouts.choose import make_engine
from greater_fast.rollouts.plain import PlainRolloutEngine
from tests.cases import plain_logits, tiny_lm, tokenizer
from tests.tiny import END_ID, tiny_model

FAMILIES = pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
TAU = 0.2


def own_greedy(lm: LM, prompt: Sequence[int], limit: int, end_ids: frozenset[int]) -> list[int]:
    """One sequence, one argmax after the other, no cache."""
    found: list[int] = []
    while len(found) < limit:
        token = int(plain_logits(lm, [*prompt, *found])[-1].argmax())
        if token in end_ids:
            break
        found.append(token)
    return found


def prompts(number: int = 7) -> list[tuple[int, ...]]:
    rng = random.Random(0)
    return [(0, *rng.choices(range(3, 1200), k=2 + 5 * (i * 3 % 7))) for i in range(number)]


def requests(lm: LM, limit: int = 12, **kwargs: Any) -> list[RolloutRequest]:
    """Prompts of different lengths; spans and targets of different lengths behind them."""
    return [
        RolloutRequest(
            prompt_ids=ids,
            max_new_tokens=limit,
            end_ids=kwargs.get("end_ids", lm.end_ids),
            prompt_span=(1 + i % 2, len(ids) - i % 3) if i != 3 else (2, 2),
            target_ids=tuple(range(50 + i, 55 + 2 * i)),
            num_scored=0 if i == 4 else 1 + i % 3,
        )
        for i, ids in enumerate(prompts())
    ]


@functools.cache
def expected_reasonings(family: str) -> list[list[int]]:
    lm = tiny_lm(family)
    return [own_greedy(lm, ids, 12, lm.end_ids) for ids in prompts()]


@FAMILIES
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_reasoning_is_greedy_decoding(family: str, batch_size: int) -> None:
    lm = tiny_lm(family)
    rollouts = PlainRolloutEngine(lm, batch_size).run(requests(lm))
    assert [list(r.reasoning_ids) for r in rollouts] == expected_reasonings(family)
    lengths = {len(r.reasoning_ids) for r in rollouts}
    assert len(lengths) > 1
    assert not any(set(r.reasoning_ids) & lm.end_ids for r in rollouts)


def test_a_batch_that_does_not_fit_the_memory_is_halved() -> None:
    lm = tiny_lm()
    asked = requests(lm)
    expected = PlainRolloutEngine(lm).run(asked)
    most, sizes = 2, []

    def run_out(_: Any, __: Any, options: dict[str, Any]) -> None:
        sizes.append(len(options["input_ids"]))
        if sizes[-1] > most:
            torch.empty(1 << 60, dtype=torch.uint8)

    engine = PlainRolloutEngine(lm)
    hook = lm.model.get_decoder().register_forward_pre_hook(run_out, with_kwargs=True)
    try:
        found = engine.run(asked)
        for one, other in zip(found, expected, strict=True):
            assert one is not None
            assert other is not None
            assert one.reasoning_ids == other.reasoning_ids
            assert one.answer_logprobs == pytest.approx(other.answer_logprobs, abs=1e-4)
        assert len([size for size in sizes if size > 2]) < 5  # what did not fit is asked no more
        most = 0
        with pytest.raises(MemoryError, match="one row does not fit the memory of cpu: lower max"):
            engine.run(asked)
    finally:
        hook.remove()


@FAMILIES
def test_end_ids_and_limit_are_the_requests(family: str) -> None:
    """Not the model's: here any third id ends, after one token, or none does."""
    lm = tiny_lm(family)
    thirds = frozenset(range(0, 1200, 3))
    for end_ids, limit in ((thirds, 12), (frozenset([7]), 5), (lm.end_ids, 1)):
        asked = requests(lm, limit, end_ids=end_ids)
        rollouts = PlainRolloutEngine(lm).run(asked)
        found = [list(r.reasoning_ids) for r in rollouts]
        assert found == [own_greedy(lm, r.prompt_ids, limit, end_ids) for r in asked]
        for request, rollout in zip(asked, rollouts, strict=True):
            (written,) = own_greedy(
                lm, (*request.prompt_ids, *rollout.reasoning_ids), 1, frozenset()
            )
            has_ended = len(rollout.reasoning_ids) < limit
            assert rollout.end_id == (written if has_ended else None)
            assert (rollout.end_id in end_ids) == has_ended
    never = PlainRolloutEngine(lm).run(requests(lm, 9, end_ids=frozenset([END_ID])))
    assert {(len(r.reasoning_ids), r.end_id) for r in never} == {(9, None)}


@FAMILIES
@pytest.mark.parametrize("batch_size", [2, 32])
def test_scores_are_those_of_each_row_alone(family: str, batch_size: int) -> None:
    lm = tiny_lm(family)
    asked = requests(lm)
    rollouts = PlainRolloutEngine(lm, batch_size, TAU).run(asked)
    for request, rollout in zip(asked, rollouts, strict=True):
        ids = [*request.prompt_ids, *rollout.reasoning_ids, *request.target_ids]
        logits = plain_logits(lm, ids)
        start, stop = request.prompt_span
        plain = logits.log_softmax(-1)
        nlls = [-float(plain[i - 1, ids[i]]) for i in range(start, stop)]
        expected = sum(nlls) / len(nlls) if nlls else 0.0
        assert rollout.prompt_nll == pytest.approx(expected, rel=1e-4)
        answer = range(len(ids) - request.num_scored, len(ids))
        warm = (logits / TAU).log_softmax(-1)
        values = [float(warm[i - 1, ids[i]]) for i in answer]
        assert rollout.answer_logprobs == pytest.approx(values, rel=1e-4, abs=1e-4)
        hits = [int(logits[i - 1].argmax()) == ids[i] for i in answer]
        assert list(rollout.answer_hits) == hits


def test_hits_are_found() -> None:
    """The model's own first choice behind the extractor is a hit, any other token is none."""
    lm = tiny_lm()
    context = prompts()[1]
    reasoning = own_greedy(lm, context, 6, lm.end_ids)
    first = int(plain_logits(lm, [*context, *reasoning, 50, 51])[-1].argmax())
    asked = [
        RolloutRequest(context, 6, lm.end_ids, target_ids=(50, 51, answer, 60), num_scored=2)
        for answer in (first, first + 1)
    ]
    right, wrong = PlainRolloutEngine(lm).run(asked)
    assert right.answer_hits[0]
    assert not wrong.answer_hits[0]
    assert wrong.is_wrong


@pytest.mark.skipif(torch.cuda.is_available(), reason="no interpreter where there is a GPU")
def test_a_kernel_scores_as_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm("gemma2")
    asked = requests(lm, 4)[:4]
    expected = make_engine(lm, Config(engine="generate", kernels="reference"))[0].run(asked)
    monkeypatch.setattr(LM, "logits", lambda *_: pytest.fail("logits were made"))
    found = make_engine(lm, Config(engine="generate", kernels="triton"))[0].run(asked)
    for own, other in zip(found, expected, strict=True):
        assert own is not None
        assert other is not None
        assert own.reasoning_ids == other.reasoning_ids
        assert own.answer_hits == other.answer_hits
        assert own.prompt_nll == pytest.approx(other.prompt_nll, rel=1e-4)
        assert own.answer_logprobs == pytest.approx(other.answer_logprobs, rel=1e-4, abs=1e-4)


def test_nothing_is_scored_where_nothing_is_asked() -> None:
    lm = tiny_lm()
    asked = [RolloutRequest(ids, 4, lm.end_ids) for ids in prompts(2)]
    engine = PlainRolloutEngine(lm)
    with count_forward_tokens(lm) as counted:
        rollouts = engine.run(asked)
    assert all(r.answer_logprobs == () and r.prompt_nll == 0.0 for r in rollouts)
    width = max(len(r.prompt_ids) for r in asked)
    longest = max(min(len(r.reasoning_ids) + 1, 4) for r in rollouts)
    assert sum(counted.tokens) == engine.num_forward_tokens == 2 * (width + longest - 1)
    assert engine.run([]) == []


class count_forward_tokens:  # noqa: N801
    """Tokens of each call of the model's embedding, while it is entered."""

    def __init__(self, lm: LM) -> None:
        self.tokens: list[int] = []
        self._embedding = lm.model.get_input_embeddings()

    def __enter__(self) -> "count_forward_tokens":
        self._hook = self._embedding.register_forward_pre_hook(
            lambda _, inputs: self.tokens.append(inputs[0].numel())
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("limit", [1, 12])
def test_counters_are_exact(batch_size: int, limit: int) -> None:
    lm = tiny_lm()
    engine = PlainRolloutEngine(lm, batch_size)
    asked = requests(lm, limit)
    with count_forward_tokens(lm) as counted:
        rollouts = engine.run(asked)
    assert engine.num_forward_tokens == sum(counted.tokens)
    lengths = [len(r.reasoning_ids) for r in rollouts]
    assert engine.num_generated_tokens == sum(min(n + 1, limit) for n in lengths)
    before = engine.num_generated_tokens, engine.num_forward_tokens
    engine.run(asked)
    assert (engine.num_generated_tokens, engine.num_forward_tokens) == tuple(2 * n for n in before)


def test_the_models_own_generation_settings_stay_out_and_come_back() -> None:
    model = tiny_model("llama", len(tokenizer("llama3")))
    lm = load_lm((model, tokenizer("llama3")))
    settings = GenerationConfig(
        do_sample=True,
        temperature=5.0,
        top_k=7,
        top_p=0.3,
        repetition_penalty=9.0,
        no_repeat_ngram_size=1,
        min_new_tokens=11,
        max_length=3,
        suppress_tokens=list(range(6, 500)),
        forced_eos_token_id=5,
        num_beams=3,
        eos_token_id=[3],
    )
    model.generation_config = settings
    before = settings.to_dict()
    rollouts = PlainRolloutEngine(lm).run(requests(lm))
    assert [list(r.reasoning_ids) for r in rollouts] == expected_reasonings("llama")
    assert model.generation_config is settings
    assert settings.to_dict() == before


def test_generation_settings_come_back_after_an_error() -> None:
    model = tiny_model("llama", len(tokenizer("llama3")))
    lm = load_lm((model, tokenizer("llama3")))
    settings = model.generation_config
    with pytest.raises((IndexError, ValueError, RuntimeError)):
        PlainRolloutEngine(lm).run([RolloutRequest((0, 10**6), 3, lm.end_ids)])
    assert model.generation_config is settings


@FAMILIES
def test_a_result_does_not_depend_on_earlier_calls(family: str) -> None:
    lm = tiny_lm(family)
    used, fresh = PlainRolloutEngine(lm, 3, TAU), PlainRolloutEngine(lm, 3, TAU)
    used.run(requests(lm, 5)[2:])
    used.run(requests(lm, 3, end_ids=frozenset([7]))[:1])
    assert used.run(requests(lm)) == fresh.run(requests(lm))
    assert torch.is_grad_enabled()


def test_a_rollout_depends_on_its_batch_by_rounding_alone() -> None:
    lm = tiny_lm()
    together = PlainRolloutEngine(lm, 32, TAU).run(requests(lm))
    for request, rollout in zip(requests(lm), together, strict=True):
        (alone,) = PlainRolloutEngine(lm, 32, TAU).run([request])
        assert alone.reasoning_ids == rollout.reasoning_ids
        assert alone.answer_logprobs == pytest.approx(rollout.answer_logprobs, rel=1e-4, abs=1e-4)
        assert alone.prompt_nll == pytest.approx(rollout.prompt_nll, rel=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"max_new_tokens": 4},
        {"end_ids": frozenset([3])},
        {"stop": StopTexts(tiny_lm().vocabulary, ["."])},
    ],
)
def test_requests_of_one_call_share_their_limits(change: dict[str, Any]) -> None:
    lm = tiny_lm()
    plain: dict[str, Any] = {"prompt_ids": (0, 5), "max_new_tokens": 3, "end_ids": lm.end_ids}
    with pytest.raises(ValueError, match="must share their limits, end_ids and is_draw"):
        PlainRolloutEngine(lm).run([RolloutRequest(**plain), RolloutRequest(**plain | change)])
