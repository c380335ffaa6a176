"""Which modules of a model csrc takes over, that they give the same, and that they go back."""

from typing import Any

import pytest
import torch

from greater_fast.model.cpu.layers import CPULayers
from greater_fast.model.lm import LM, load_lm
from tests.cases import tiny_lm, tokenizer
from tests.exact import exact_lm
from tests.zoo.models import zoo_model

# By family: whether its norms, MLPs, and attention modules are of a form that is known.
TAKEN = {
    "llama": (True, True, True),
    "qwen2": (True, True, True),  # with biases
    "qwen3": (True, True, False),  # queries and keys pass norms
    "mistral": (True, True, True),
    "gemma2": (True, True, True),  # 1 + w, gelu, soft caps
    "gemma3": (True, True, False),
    "phi3": (True, False, False),  # layers of several matrices in one
}


def taken(lm: LM, kind: str) -> list[bool]:
    """Of the modules whose class is named so: whether they are taken over."""
    with CPULayers(lm).installed():
        return [
            "forward" in vars(module)
            for module in lm.model.modules()
            if type(module).__name__.endswith(kind)
        ]


@pytest.mark.parametrize("family", TAKEN)
def test_modules_are_taken_over_by_what_they_give(family: str) -> None:
    lm = tiny_lm(family)
    for kind, expected in zip(("RMSNorm", "MLP", "Attention"), TAKEN[family], strict=True):
        found = taken(lm, kind)
        assert found
        assert set(found) == {expected}
    assert not any("forward" in vars(module) for module in lm.model.modules())


@pytest.mark.parametrize("family", TAKEN)
def test_a_model_gives_the_same_with_them(family: str) -> None:
    lm = tiny_lm(family)
    ids = torch.tensor([lm.vocabulary.ids(" the answer is that one plus two")])
    embedded = lm.embed(ids).requires_grad_()
    factors = torch.randn(embedded.shape, generator=torch.Generator().manual_seed(0))

    def states_and_gradient() -> tuple[torch.Tensor, torch.Tensor]:
        states = lm.hidden(inputs_embeds=embedded)
        (gradient,) = torch.autograd.grad(states, embedded, factors)
        with torch.inference_mode():
            assert torch.allclose(lm.hidden(input_ids=ids), states, rtol=1e-4, atol=1e-5)
        return states, gradient

    own = states_and_gradient()
    with CPULayers(lm).installed():
        ours = states_and_gradient()
    for found, expected in zip(ours, own, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_float64_is_taken_over_where_it_is_kept(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = exact_lm(family, monkeypatch)
    assert all(taken(lm, "RMSNorm") + taken(lm, "MLP") + taken(lm, "Attention"))
    monkeypatch.undo()  # transformers' own norms round to float32 on the way
    assert not any(taken(lm, "RMSNorm"))


def norm_of(lm: LM) -> Any:
    return lm.model.get_decoder().layers[0].input_layernorm


def shifted(self: Any, states: torch.Tensor) -> torch.Tensor:
    return states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + 3e-5) * self.weight


def test_a_norm_with_another_epsilon_than_it_says_is_left_alone(own_lm: LM) -> None:
    norm = norm_of(own_lm)
    norm.__class__ = type("Shifted", (type(norm),), {"forward": shifted})
    with CPULayers(own_lm).installed():
        assert "forward" not in vars(norm)


def test_another_activation_is_left_alone(own_lm: LM) -> None:
    mlp = own_lm.model.get_decoder().layers[0].mlp
    mlp.act_fn = torch.nn.GELU()  # not that by tanh, though they look alike
    found = taken(own_lm, "MLP")
    assert not found[0]
    assert all(found[1:])


@pytest.mark.parametrize("limit", [7.0, 40.0, 400.0])
def test_an_activation_that_is_cut_off_is_left_alone(own_lm: LM, limit: float) -> None:
    mlp = own_lm.model.get_decoder().layers[0].mlp
    own = mlp.act_fn
    cut = {"forward": lambda _, gate: own(gate).clamp(max=limit)}
    mlp.act_fn = type("Cut", (torch.nn.Module,), cut)()
    assert not taken(own_lm, "MLP")[0]


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
@pytest.mark.parametrize("part", ["mlp", "self_attn", "input_layernorm"])
def test_a_hook_is_not_gone_round(own_lm: LM, part: str, kind: str) -> None:
    module = getattr(own_lm.model.get_decoder().layers[0], part)
    inner = next(iter(module.children()), module)
    handle = getattr(inner, f"register_{kind}_hook")(lambda *_: None)
    with CPULayers(own_lm).installed():
        assert "forward" not in vars(module)
    handle.remove()
    with CPULayers(own_lm).installed():
        assert "forward" in vars(module)


def test_calls_of_another_kind_go_the_modules_own_way(lm: LM) -> None:
    """A batch of two, with a cache: the taken-over attention hands them on."""
    ids = torch.tensor([lm.vocabulary.ids(" the answer is")] * 2)
    with torch.inference_mode():
        own = lm.model(input_ids=ids, use_cache=True)
        with CPULayers(lm).installed():
            ours = lm.model(input_ids=ids, use_cache=True)
    torch.testing.assert_close(ours.logits, own.logits, rtol=1e-4, atol=1e-4)
    assert ours.past_key_values.get_seq_length() == ids.shape[1]


def test_a_partial_rotary_embedding_goes_the_modules_own_way() -> None:
    """It turns the first places of a head alone, which no trial with whole turns shows."""
    lm = load_lm((zoo_model("glm4_moe", len(tokenizer("llama3"))), tokenizer("llama3")))
    ids = torch.tensor([lm.vocabulary.ids(" the answer is that one plus two")])
    with torch.no_grad():
        own = lm.hidden(input_ids=ids)
        with CPULayers(lm).installed():
            torch.testing.assert_close(lm.hidden(input_ids=ids), own, rtol=1e-4, atol=1e-5)


def test_another_model_may_be_tried_meanwhile(own_lm: LM) -> None:
    """As from another thread: each attention module is tried for itself."""
    attention, other = own_lm.model.get_decoder().layers[0].self_attn, tiny_lm("gemma2")
    own, meanwhile = type(attention), []

    def forward(self: Any, *arguments: Any, **options: Any) -> Any:
        if not meanwhile:
            meanwhile.append(taken(other, "Attention"))
        return own.forward(self, *arguments, **options)

    attention.__class__ = type("Shared", (own,), {"forward": forward})
    with CPULayers(own_lm).installed():
        assert "forward" in vars(attention)
    assert all(meanwhile[0])


def test_no_rows_are_no_rows(lm: LM) -> None:
    """An expert that no token goes to."""
    layer = lm.model.get_decoder().layers[0]
    for module in (layer.mlp, layer.input_layernorm, layer.mlp.gate_proj):
        nothing = torch.zeros(1, 0, lm.embedding_width)
        own = module(nothing)
        with CPULayers(lm).installed():
            assert module(nothing).shape == own.shape
