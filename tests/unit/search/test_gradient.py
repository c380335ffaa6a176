import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from greater_fast.config import Config
from greater_fast.engine import Engine, Rollout
from greater_fast.examples.layout import Layouts
from greater_fast.model.kv_cache import BLOCK_SIZE, block_bytes
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.plain import PlainRolloutEngine
from greater_fast.search.gradient import prompt_gradient
from greater_fast.search.nouns import Position
from tests.cases import layouts_of, small_config, tiny_lm, tokenizer
from tests.exact import exact_lm
from tests.tiny import tiny_model

FAMILIES = pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
ALL_FAMILIES = pytest.mark.parametrize(
    "family", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"]
)
ROLLOUTS = [Rollout(tuple(range(20 + 9 * i, 20 + 11 * i))) for i in range(5)]  # 0 to 8 tokens


def config(**settings: Any) -> Config:
    return small_config(temperature=0.5, **settings)


@functools.cache
def setting(family: str, num_rows: int = 5) -> tuple[LM, Layouts]:
    lm = tiny_lm(family)
    return lm, layouts_of(lm, num_rows)


class PaddingEngine(PlainRolloutEngine):
    """An engine whose model runs over whole padded sequences alone."""

    can_pack = False  # type: ignore[assignment]


@functools.cache
def tried_engine(lm: LM) -> PlainRolloutEngine:
    """An engine that has tried a model's gradient."""
    engine = PlainRolloutEngine(lm)
    assert engine.can_pack
    return engine


def gradient(
    engine: Engine | LM,
    layouts: Layouts,
    index: int,
    rollouts: Sequence[Rollout] = ROLLOUTS,
    **settings: Any,
) -> torch.Tensor:
    engine = tried_engine(engine) if isinstance(engine, LM) else engine
    position = Position(0, index, layouts.prompt_ids)
    return prompt_gradient(engine, layouts, rollouts[: len(layouts)], position, config(**settings))


def loss(
    lm: LM, layouts: Layouts, row: int, rollout: Rollout, prompt_ids: Sequence[int], shift: Any = 0
) -> torch.Tensor:
    """L_i of GREATER, step 2, of one sequence alone; `shift` [T, D] is added to its embeddings."""
    settings = config()
    context = layouts.context_ids(row, prompt_ids)
    ids = torch.tensor([*context, *rollout.reasoning_ids, *layouts.target_ids(row)])
    embedded = lm.model.get_input_embeddings()(ids) + shift
    logits = lm.model(inputs_embeds=embedded[None], use_cache=False).logits[0, :-1]
    num_answer = len(layouts.rows[row].answer_ids)
    answer = cross_entropy(logits[-num_answer:] / settings.temperature, ids[-num_answer:])
    start, stop = layouts.prompt_span(row, prompt_ids)
    fluency = cross_entropy(logits[start - 1 : stop - 1], ids[start:stop])
    return answer + settings.fluency_weight * fluency


def expected_gradient(lm: LM, layouts: Layouts, index: int) -> torch.Tensor:
    """Autograd's, of each example alone."""
    expected = torch.zeros(48)
    for row, rollout in enumerate(ROLLOUTS):
        length = len(layouts.context_ids(row, layouts.prompt_ids)) + len(rollout.reasoning_ids)
        shift = torch.zeros(length + len(layouts.target_ids(row)), 48, requires_grad=True)
        value = loss(lm, layouts, row, rollout, layouts.prompt_ids, shift)
        (whole,) = torch.autograd.grad(value, shift)
        expected += whole[len(layouts.rows[row].head_ids) + index]
    return expected


def assert_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.dtype == expected.dtype
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * scale)


@ALL_FAMILIES
@pytest.mark.parametrize("index", [0, 6, -1])
def test_it_is_autograds_of_each_example_alone(family: str, index: int) -> None:
    lm, layouts = setting(family)
    index %= len(layouts.prompt_ids)
    engine = PlainRolloutEngine(lm)
    assert engine.can_pack
    assert_equal(gradient(engine, layouts, index), expected_gradient(lm, layouts, index))


@FAMILIES
def test_a_model_that_cannot_be_packed_is_padded(family: str) -> None:
    lm, layouts = setting(family)
    engine = PaddingEngine(lm)
    for index, limit in ((0, 1024), (6, 1)):
        found = gradient(engine, layouts, index, gradient_batch_tokens=limit)
        assert_equal(found, expected_gradient(lm, layouts, index))


@pytest.fixture
def seen() -> Iterator[list[tuple[int, int]]]:
    """Shapes [rows, tokens] of what went through the tiny Llama for a gradient."""
    shapes = []

    def see(_: Any, __: Any, options: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            shapes.append(tuple((options.get("inputs_embeds", options.get("input_ids"))).shape[:2]))

    decoder = tried_engine(tiny_lm("llama")).lm.model.get_decoder()
    hook = decoder.register_forward_pre_hook(see, with_kwargs=True)
    yield shapes
    hook.remove()


def test_only_tokens_from_the_place_on_are_computed(seen: list[tuple[int, int]]) -> None:
    lm, layouts = setting("llama")
    numbers = []
    for index in (0, 5, len(layouts.prompt_ids) - 1):
        seen.clear()
        gradient(lm, layouts, index, gradient_batch_tokens=10_000)
        after = sum(
            len(layouts.rows[row].tail_ids)
            + len(rollout.reasoning_ids)
            + len(layouts.target_ids(row))
            - 1
            for row, rollout in enumerate(ROLLOUTS)
        )
        assert seen == [(1, after + 5 * (len(layouts.prompt_ids) - index))]
        numbers.append(seen[0][1])
    assert numbers == sorted(numbers, reverse=True)


def test_micro_batches_keep_to_the_limit(seen: list[tuple[int, int]]) -> None:
    lm, layouts = setting("llama")
    alone = gradient(lm, layouts, 3, gradient_batch_tokens=1)
    lengths = [size[1] for size in seen]
    assert [size[0] for size in seen] == [1] * 5
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]
    for engine, limit, number in (
        (lm, lengths[0] + lengths[1], 4),
        (lm, sum(lengths[:3]), 2),
        (lm, sum(lengths), 1),
        (PaddingEngine(lm), 10_000, 1),
        (PaddingEngine(lm), 130, 3),
    ):
        seen.clear()
        together = gradient(engine, layouts, 3, gradient_batch_tokens=limit)
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
        assert all(count * width <= limit for count, width in seen)
        assert len(seen) == number


@FAMILIES
def test_the_micro_batch_size_changes_nothing_but_rounding(family: str) -> None:
    lm, layouts = setting(family)
    alone = gradient(lm, layouts, 3, gradient_batch_tokens=1)
    for limit in (150, 10_000):
        together = gradient(lm, layouts, 3, gradient_batch_tokens=limit)
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@ALL_FAMILIES
@pytest.mark.parametrize("num_held", [1000, 2])
def test_what_the_engine_has_run_before_changes_no_bit(family: str, num_held: int) -> None:
    """Whether its pool holds all contexts or few of them: then which they are says nothing."""
    lm, layouts = setting(family)
    contexts = [layouts.context_ids(row, layouts.prompt_ids) for row in range(len(layouts))]
    blocks = 1 + num_held * -(-max(map(len, contexts)) // BLOCK_SIZE)
    engines = [RolloutEngine(lm, kv_cache_bytes=blocks * block_bytes(lm)) for _ in range(3)]
    engines[1].next_logits([ids[:-9] for ids in contexts[1:]])
    engines[2].next_logits([ids for context in contexts for ids in (context[:20], context)])
    for index in (0, 7):
        first, *others = (gradient(engine, layouts, index) for engine in engines)
        assert all(torch.equal(first, other) for other in others)


def test_the_gradient_is_the_sum_over_examples() -> None:
    lm, layouts = setting("llama")
    apart = sum(
        gradient(lm, single, 2, ROLLOUTS[row : row + 1])
        for row in range(5)
        for single in [only(layouts, row)]
    )
    torch.testing.assert_close(gradient(lm, layouts, 2), apart, rtol=1e-4, atol=1e-5)


def only(layouts: Layouts, row: int) -> Layouts:
    """One row of a set."""
    return dataclasses.replace(layouts, rows=layouts.rows[row : row + 1])


@pytest.mark.parametrize("place", [0, 7, "last", "grown"])
def test_it_equals_central_differences(place: int | str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = exact_lm("llama", monkeypatch)
    layouts = layouts_of(lm, 3)
    prompt_ids = layouts.prompt_ids
    if place == "grown":
        prompt_ids = (*prompt_ids, 500)
    index = place if isinstance(place, int) else len(prompt_ids) - 1
    position = Position(0, index, prompt_ids)
    engine = PlainRolloutEngine(lm)
    found = prompt_gradient(engine, layouts, ROLLOUTS[:3], position, config())
    assert found.dtype == torch.float64

    def value(step: torch.Tensor) -> float:
        total = 0.0
        for row, rollout in enumerate(ROLLOUTS[:3]):
            length = len(layouts.context_ids(row, prompt_ids)) + len(rollout.reasoning_ids)
            shift = torch.zeros(length + len(layouts.target_ids(row)), 48, dtype=torch.float64)
            shift[len(layouts.rows[row].head_ids) + index] = step
            with torch.no_grad():
                total += float(loss(lm, layouts, row, rollout, prompt_ids, shift))
        return total

    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        direction = torch.randn(48, generator=generator, dtype=torch.float64)
        step = 1e-5 * direction
        measured = (value(step) - value(-step)) / 2e-5
        assert float(found @ direction) == pytest.approx(measured, rel=1e-6, abs=1e-7)


def test_at_the_last_token_fluency_has_no_part() -> None:
    lm, layouts = setting("llama")
    last = len(layouts.prompt_ids) - 1
    for index, matters in ((last, False), (last - 1, True), (0, True)):
        without = gradient(lm, layouts, index, fluency_weight=0.0)
        heavy = gradient(lm, layouts, index, fluency_weight=5.0)
        assert torch.equal(without, heavy) != matters
        assert without.abs().max() > 0


def test_temperature_and_reasoning_matter() -> None:
    lm, layouts = setting("llama")
    position = Position(0, 3, layouts.prompt_ids)
    base = gradient(lm, layouts, 3)
    other = [Rollout(r.reasoning_ids[::-1]) for r in ROLLOUTS]
    assert not torch.allclose(base, gradient(lm, layouts, 3, other))
    engine = PlainRolloutEngine(lm)
    cold = prompt_gradient(engine, layouts, ROLLOUTS, position, small_config(temperature=0.1))
    assert not torch.allclose(base, cold)


def test_weights_get_no_gradient() -> None:
    lm, layouts = setting("llama")
    found = gradient(lm, layouts, 1)
    assert all(p.grad is None and not p.requires_grad for p in lm.model.parameters())
    assert not found.requires_grad
    assert not lm.model.training


def test_low_precision_weights_give_a_float32_gradient() -> None:
    model = tiny_model("llama", len(tokenizer("llama3")), torch.bfloat16)
    lm = load_lm((model, tokenizer("llama3")))
    exact = gradient(*setting("llama", 2), 4)
    found = gradient(lm, setting("llama", 2)[1], 4)
    assert found.dtype == torch.float32
    assert torch.cosine_similarity(found, exact, dim=0) > 0.9


@pytest.mark.parametrize("limit", [1, 10_000])
def test_a_loss_that_is_not_finite_names_its_example(limit: int) -> None:
    """A token that stands in the reasoning of example 3 alone has an embedding that is NaN."""
    lm = load_lm((tiny_model("llama", len(tokenizer("llama3"))), tokenizer("llama3")))
    layouts = setting("llama")[1]
    rollouts = [*ROLLOUTS[:3], Rollout((1111, 20)), ROLLOUTS[4]]
    assert gradient(lm, layouts, 2, rollouts).isfinite().all()
    lm.model.get_input_embeddings().weight[1111] = torch.nan
    with pytest.raises(FloatingPointError, match="the loss of example 3 is nan: try dtype float32"):
        gradient(lm, layouts, 2, rollouts, gradient_batch_tokens=limit)


@pytest.mark.parametrize("engine", [PlainRolloutEngine, PaddingEngine])
def test_a_gradient_that_is_not_finite_names_its_example(engine: Any) -> None:
    """Backwards, the states of one token of the second shortest example become infinite."""
    lm, layouts = setting("llama")
    lengths = [
        len(layouts.rows[i].tail_ids) + len(ROLLOUTS[i].reasoning_ids) + len(layouts.target_ids(i))
        for i in range(5)
    ]
    if engine is PaddingEngine:
        lengths = [n + len(row.head_ids) for n, row in zip(lengths, layouts.rows, strict=True)]
    order = sorted(range(5), key=lambda i: (lengths[i], i))
    in_packed_row = len(layouts.prompt_ids) - 2 + lengths[order[0]] + 8

    def break_it(_: Any, __: Any, output: Any) -> None:
        def damage(gradient: torch.Tensor) -> torch.Tensor:
            gradient = gradient.clone()
            place = (0, in_packed_row) if len(gradient) == 1 else (1, -1)
            gradient[place] = torch.inf
            return gradient

        if output.last_hidden_state.requires_grad:
            output.last_hidden_state.register_hook(damage)

    hook = lm.model.get_decoder().register_forward_hook(break_it)
    try:
        with pytest.raises(
            FloatingPointError, match=f"gradient of example {order[1]} at prompt position 2"
        ):
            gradient(engine(lm), layouts, 2, gradient_batch_tokens=10_000)
    finally:
        hook.remove()
