"""Attention modules that are taken over: which, that their attention gets the same, and its way."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from greater_fast.gradients.packed_row import Segment
from greater_fast.gradients.suffix_forward import packed
from greater_fast.kernels.layers import rotary
from greater_fast.kernels.reference import Turns
from greater_fast.model.attention.interface import TurningAttention, attention
from greater_fast.model.forwards import replaced_forwards
from greater_fast.model.gpu.heads import heads_forward
from greater_fast.model.gpu.refusal import RefusedError
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.paged import forward, probe_steps
from tests.cases import tiny_lm, tokenizer
from tests.tiny import tiny_model
from tests.unit.model.gpu.launches import recorded
from tests.zoo.models import zoo_model

FAMILIES = ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"]
# Pairs of neighbours; a part of each head alone.
OTHERS = ["cohere", "glm4_moe"]
STOPS = ((2,), (5,))


@functools.cache
def known_lm(family: str) -> LM:
    if family in FAMILIES:
        return tiny_lm(family)
    words = tokenizer("llama3")
    model = zoo_model(family, len(words))
    del model.get_decoder().layers[1:]
    model.config.num_hidden_layers = 1
    return load_lm((model, words))


@functools.cache
def taken(lm: LM) -> list[tuple[Any, Any]]:
    """The attention modules of a model, with what each is replaced by."""
    found = [(module, heads_forward(lm, module)) for module in lm.model.modules()]
    return [(module, forward) for module, forward in found if forward is not None]


def module_of(lm: LM) -> Any:
    return lm.model.get_decoder().layers[0].self_attn


def states_and_gradient(lm: LM) -> tuple[torch.Tensor, torch.Tensor]:
    """Of two packed suffixes: last states, and the gradient by embeddings."""
    ids = lm.vocabulary.ids(" the answer is that one plus two")[:5]
    embedded = lm.embed(torch.tensor([*ids, *ids[:2]])).requires_grad_()
    segments = [Segment(5, None, [2, 4]), Segment(2, None, [1])]
    factors = torch.randn(3, lm.embedding_width, generator=torch.Generator().manual_seed(0))
    with packed(lm, segments) as states_of:
        states = states_of(embedded)
        (gradient,) = torch.autograd.grad(states, embedded, factors.to(states.dtype))
    return states.detach(), gradient


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_a_model_gives_the_same_with_them(family: str) -> None:
    """In rollouts, whose attention turns, and whose attention does not; in the gradient pass."""
    lm = known_lm(family)
    names = [type(module).__name__ for module, _ in taken(lm)]
    assert len(names) == sum(type(m).__name__.endswith("Attention") for m in lm.model.modules())
    assert names
    own = [forward(lm, plan) for plan in probe_steps(lm, "reference", STOPS)]
    own += states_and_gradient(lm)
    with replaced_forwards(taken(lm)):
        turning = [forward(lm, plan) for plan in probe_steps(lm, "triton", STOPS)]
        turned = [forward(lm, plan) for plan in probe_steps(lm, "reference", STOPS)]
        gradient = states_and_gradient(lm)
    for found in ([*turning, *gradient], [*turned, *gradient]):
        for ours, expected in zip(found, own, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert not any("forward" in vars(module) for module in lm.model.modules())


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_16_bits_are_no_further_from_float32(family: str) -> None:
    words = tokenizer("llama3")
    model = tiny_model(family, len(words), torch.bfloat16)
    lm, wide = load_lm((model, words)), load_lm((tiny_model(family, len(words)), words))
    wide.model.load_state_dict(model.state_dict())  # the very weights, rounded
    exact, own = states_and_gradient(wide), states_and_gradient(lm)
    assert len(taken(lm)) == 2
    with replaced_forwards(taken(lm)):
        ours = states_and_gradient(lm)
    for found, other, expected in zip(ours, own, exact, strict=True):
        assert (found - expected).norm() <= 1.5 * (other - expected).norm()


def test_heads_that_float16_just_holds_are_taken_over() -> None:
    """States come from a norm: only of much larger ones are there no such heads."""
    words = tokenizer("llama3")
    lm = load_lm((tiny_model("llama", len(words), torch.float16), words))
    module = module_of(lm)
    weight = module.k_proj.weight
    weight.mul_(100 / weight.float().norm(dim=1).max())
    largest = 1e3 * torch.ones(weight.shape[1], dtype=lm.dtype)
    assert module.k_proj(largest * weight[0].sign()).isinf().any()
    assert heads_forward(lm, module) is not None


def test_weights_stay_the_modules_own(own_lm: LM) -> None:
    """Views of one matrix, which are the same numbers; what is written into them is seen."""
    module = module_of(own_lm)
    parts = [getattr(module, name).weight for name in ("q_proj", "k_proj", "v_proj")]
    before = [part.clone() for part in parts]
    forwards = taken(own_lm)
    assert all(map(torch.equal, parts, before))
    assert len({part.untyped_storage().data_ptr() for part in parts}) == 1
    with replaced_forwards(forwards), torch.no_grad():
        own = states_and_gradient_of_zero(own_lm)
        parts[2].zero_()
        assert not torch.equal(states_and_gradient_of_zero(own_lm), own)


def states_and_gradient_of_zero(lm: LM) -> torch.Tensor:
    return forward(lm, probe_steps(lm, "triton", ((5,),))[0])


REFUSED = {
    "glm4": "heads that are turned in another way",  # neighbours, by the angles of halves
    "olmo2": "heads that are turned in another way",  # normed before they are heads
}


@pytest.mark.parametrize("family", REFUSED)
def test_another_form_is_left_alone(family: str) -> None:
    lm = known_lm(family)
    with pytest.raises(RefusedError, match=REFUSED[family]):
        heads_forward(lm, module_of(lm))


class Wider(torch.nn.Linear):
    pass


def hooked(module: Any) -> None:
    module.k_proj.register_forward_hook(lambda *_: None)


def other_layer(module: Any) -> None:
    module.v_proj.__class__ = Wider


def one_bias(module: Any) -> None:
    module.k_proj.bias = torch.nn.Parameter(torch.zeros(24), requires_grad=False)


def changed(module: Any, run: Any) -> None:
    """Runs `run(own, *args, **options)` as its own forward."""
    own = type(module).forward

    def forward(self: Any, *args: Any, **options: Any) -> Any:
        return run(functools.partial(own, self), *args, **options)

    module.__class__ = type("Other", (type(module),), {"forward": forward})


def other_turn(module: Any) -> None:
    """Of the same states, in another direction."""

    def run(own: Any, *args: Any, position_embeddings: Any, **options: Any) -> Any:
        cos, sin = position_embeddings
        return own(*args, position_embeddings=(cos, -sin), **options)

    changed(module, run)


def other_way_out(module: Any) -> None:
    def run(own: Any, *args: Any, **options: Any) -> Any:
        states, weights = own(*args, **options)
        return 2 * states, weights

    changed(module, run)


CHANGES = {
    hooked: "hooked",
    other_layer: "weights that cannot be one matrix",
    one_bias: "weights that cannot be one matrix",
    other_turn: "heads that are turned in another way",
    other_way_out: "heads that are turned in another way",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_module_is_left_alone(change: Any, own_lm: LM) -> None:
    change(module_of(own_lm))
    with pytest.raises(RefusedError, match=CHANGES[change]):
        heads_forward(own_lm, module_of(own_lm))
    assert heads_forward(own_lm, own_lm.model.get_decoder().layers[1].self_attn)
    assert heads_forward(own_lm, own_lm.model.get_decoder().layers[1].mlp) is None


def test_memory_that_ends_is_no_refusal(own_lm: LM) -> None:
    def run(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    changed(module_of(own_lm), run)
    with pytest.raises(torch.OutOfMemoryError):
        heads_forward(own_lm, module_of(own_lm))


@pytest.mark.parametrize("what", ["queries", "pool"])
def test_what_a_paged_attention_would_have_is_tried_too(
    what: str, own_lm: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = rotary.turn_and_store

    def wrong(states: Any, turns: Any, pool: Any, slots: Any) -> torch.Tensor:
        if what == "pool":
            return own(states, turns, pool[::-1], slots)
        return 2 * own(states, turns, pool, slots)

    monkeypatch.setattr(rotary, "turn_and_store", wrong)
    with pytest.raises(RefusedError, match="heads that are turned in another way"):
        heads_forward(own_lm, module_of(own_lm))


def test_calls_of_another_kind_go_the_modules_own_way(lm: LM) -> None:
    """A batch of two, with a cache."""
    ids = torch.tensor([lm.vocabulary.ids(" the answer is")] * 2)
    with torch.inference_mode():
        own = lm.model(input_ids=ids, use_cache=True)
        with replaced_forwards(taken(lm)):
            ours = lm.model(input_ids=ids, use_cache=True)
    assert torch.equal(ours.logits, own.logits)
    assert ours.past_key_values.get_seq_length() == ids.shape[1]


@contextmanager
def seen_by(lm: LM, turns_itself: bool) -> Iterator[list[dict[str, Any]]]:
    """What an attention function gets within, in a module that is taken over."""
    calls: list[dict[str, Any]] = []

    def attend(_: Any, query: torch.Tensor, *states: Any, **options: Any) -> Any:
        calls.append({"query": query, **options})
        return query.transpose(1, 2), None

    function = TurningAttention(attend) if turns_itself else attend
    with attention(lm, "seen", function), replaced_forwards(taken(lm)):
        yield calls


def test_only_who_turns_gets_heads_as_they_are(lm: LM) -> None:
    """And with them the turns; where a gradient is to flow, nobody does."""
    inputs = torch.randn(1, 3, lm.embedding_width)
    turns = tuple(torch.randn(2, 1, 3, 12))
    arguments = {"position_embeddings": turns, "attention_mask": None}
    module, (size, heads) = module_of(lm), (12, 4)
    unturned = module.q_proj(inputs).view(1, 3, heads, size).transpose(1, 2)
    for turns_itself, wants_gradient in ((True, False), (False, False), (True, True)):
        with seen_by(lm, turns_itself) as calls, torch.set_grad_enabled(wants_gradient):
            module(hidden_states=inputs.clone().requires_grad_(wants_gradient), **arguments)
        (call,) = calls
        as_they_are = turns_itself and not wants_gradient
        assert ("turns" in call) == as_they_are
        assert torch.allclose(call["query"], unturned, atol=1e-5) == as_they_are
        if as_they_are:
            given: Turns = call["turns"]
            assert torch.equal(given.cos, turns[0][0])
            assert torch.equal(given.sin, turns[1][0])
            assert not given.interleaved
            assert given.norm is None


# Of one attention module in a step, by its own code over our attention; casts are not counted.
LAUNCHES = {"llama": 16, "qwen2": 16, "qwen3": 28, "gemma3": 32}


@pytest.mark.parametrize("family", LAUNCHES)
def test_launches_of_a_module(family: str) -> None:
    """One product, norms with turns and the store, attention, and the product behind it."""
    words = tokenizer("llama3")
    lm = load_lm((tiny_model(family, len(words), torch.bfloat16), words))
    module, calls = module_of(lm), []

    def count() -> list[str]:
        own = module.forward

        def run(*args: Any, **options: Any) -> Any:
            with recorded() as launched:
                output = own(*args, **options)
            calls.append(launched)
            return output

        with replaced_forwards([(module, run)]):
            forward(lm, probe_steps(lm, "triton", ((5,),))[0])
        return list(calls.pop())

    own = count()
    with replaced_forwards(taken(lm)):
        ours = count()
    assert ours == ["linear", "turn_kernel", "paged_attention_kernel", "linear"]
    assert len(own) == LAUNCHES[family], own
