"""Which modules of a model Triton takes over, that they give the same, and that they go back."""

import functools
from typing import Any

import pytest
import torch
from torch import nn

from greater_fast.gradients.packed_row import Segment
from greater_fast.gradients.recomputing import layers_recomputed
from greater_fast.gradients.suffix_forward import packed
from greater_fast.model.forwards import replaced_forwards
from greater_fast.model.gpu.layers import GPULayers
from greater_fast.model.lm import LM, load_lm
from tests.cases import tiny_lm, tokenizer
from tests.tiny import tiny_model
from tests.unit.model.gpu.launches import recorded
from tests.zoo.models import zoo_model

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="no interpreter where there is a GPU"
)
FAMILIES = ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"]
# Of other families: what is said of what they have.
NOTES = {
    "olmo2": "norms 5 of 5, MLPs 1 of 1, residual adds 1 of 1, "
    "attention 0 of 1 (heads that are turned in another way)",
    "glm4": "norms 5 of 5, MLPs 1 of 1, residual adds 1 of 1, "
    "attention 0 of 1 (heads that are turned in another way)",
    "granite": "norms 3 of 3, MLPs 1 of 1, residual adds 0 of 1 (of another form), "
    "attention 1 of 1",
    "cohere": "norms 0 of 2 (no RMS norm of a known form), MLPs 1 of 1, "
    "residual adds 0 of 1 (norms at other places), attention 1 of 1",
    "gpt2": "no norms of a known form, no MLPs of a known form, no residual adds of a known form, "
    "no attention of a known form",
}


@functools.cache
def zoo_lm(family: str) -> LM:
    """With one layer."""
    model = zoo_model(family, len(tokenizer("llama3")))
    layers = getattr(model.get_decoder(), "layers", None) or model.get_decoder().h
    del layers[1:]
    if family == "granite":
        layers[0].residual_multiplier = 0.5
    return load_lm((model, tokenizer("llama3")))


@functools.cache
def layers_of(lm: LM) -> GPULayers:
    return GPULayers(lm)


def known_lm(family: str) -> LM:
    return tiny_lm(family) if family in FAMILIES else zoo_lm(family)


def states_and_gradient(lm: LM) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([lm.vocabulary.ids(" the answer is that one plus two")])
    embedded = lm.embed(ids).requires_grad_()
    factors = torch.randn(embedded.shape, generator=torch.Generator().manual_seed(0))
    states = lm.hidden(inputs_embeds=embedded)
    (gradient,) = torch.autograd.grad(states, embedded, factors.to(states.dtype))
    with torch.inference_mode():
        limits = {"rtol": 1e-4, "atol": 1e-5} if lm.dtype.itemsize == 4 else {"rtol": 0, "atol": 1}
        assert torch.allclose(lm.hidden(input_ids=ids), states, **limits)
    return states.detach(), gradient


@pytest.mark.parametrize("family", [*FAMILIES, *NOTES])
def test_what_is_taken_over_is_said(family: str) -> None:
    lm = known_lm(family)
    layers = layers_of(lm)
    kinds = {"norms": "RMSNorm", "MLPs": "MLP", "residual adds": "DecoderLayer"}
    kinds["attention"] = "Attention"
    if family in NOTES:
        assert layers.note == "layers in Triton: " + NOTES[family]
    else:
        names = [type(module).__name__ for module in lm.model.modules()]
        counts = {kind: sum(n.endswith(end) for n in names) for kind, end in kinds.items()}
        parts = [f"{kind} {count} of {count}" for kind, count in counts.items()]
        assert layers.note == "layers in Triton: " + ", ".join(parts)
        with layers.installed():
            for module in lm.model.modules():
                is_kind = type(module).__name__.endswith(tuple(kinds.values()))
                assert ("forward" in vars(module)) == is_kind
    assert not any("forward" in vars(module) for module in lm.model.modules())


@pytest.mark.parametrize("family", [*FAMILIES, *NOTES])
def test_a_model_gives_the_same_with_them(family: str) -> None:
    lm = known_lm(family)
    own = states_and_gradient(lm)
    with layers_of(lm).installed():
        ours = states_and_gradient(lm)
    for found, expected in zip(ours, own, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "dtype"), [("llama", torch.bfloat16), ("gemma3", torch.float16)], ids=str
)
def test_16_bits_are_no_further_from_float32(family: str, dtype: torch.dtype) -> None:
    words = tokenizer("llama3")
    model = tiny_model(family, len(words), dtype)
    lm, wide = load_lm((model, words)), load_lm((tiny_model(family, len(words)), words))
    wide.model.load_state_dict(model.state_dict())  # the very weights, rounded
    layers = GPULayers(lm)
    assert "0 of" not in layers.note
    exact, own = states_and_gradient(wide), states_and_gradient(lm)
    with layers.installed():
        ours = states_and_gradient(lm)
    for found, other, expected in zip(ours, own, exact, strict=True):
        assert (found - expected).norm() <= 1.5 * (other - expected).norm()


# A decoder layer without its attention: launches by torch's own modules, and by ours.
LAUNCHES = {"llama": (19, 5), "gemma2": (39, 6), "phi3": (18, 5)}


@pytest.mark.parametrize("family", LAUNCHES)
def test_launches_of_a_layer(family: str) -> None:
    words = tokenizer("llama3")
    lm = load_lm((tiny_model(family, len(words), torch.bfloat16), words))
    layer = lm.model.get_decoder().layers[0]
    states = torch.randn(1, 5, lm.embedding_width).to(lm.dtype)
    nothing = [(layer.self_attn, lambda hidden_states, **_: (hidden_states, None))]

    def count() -> int:
        with replaced_forwards(nothing), torch.inference_mode(), recorded() as launched:
            layer(states)
        return len(launched)

    own = count()
    with GPULayers(lm).installed():
        ours = count()
    assert (own, ours) == LAUNCHES[family]


def test_kernels_are_compiled_once_whatever_the_rows(
    lm: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a compiled kernel depends on is the same for steps of any number of rows."""
    from triton.runtime.interpreter import InterpretedFunction

    variants = set()
    own = InterpretedFunction.run

    def run(self: Any, *args: Any, **options: Any) -> Any:
        given = dict(zip(self.arg_names, args, strict=False)) | options
        for name in ("grid", "warmup", *self.kwargs["do_not_specialize"]):
            given.pop(name)
        fixed = {n: v.dtype if isinstance(v, torch.Tensor) else v for n, v in given.items()}
        variants.add((self.fn.__name__, str(fixed)))
        return own(self, *args, **options)

    layers = layers_of(lm)
    monkeypatch.setattr(InterpretedFunction, "run", run)
    with layers.installed():
        for num_rows in (1, 2, 16, 17):
            states = lm.embed(torch.arange(20, 20 + num_rows))[None].requires_grad_()
            lm.hidden(inputs_embeds=states).sum().backward()
    names = sorted(name for name, _ in variants)
    norms = ["rms_norm_backward_kernel"] * 2 + ["rms_norm_kernel"] * 2  # with and without an add
    assert names == ["gated_backward_kernel", "gated_kernel", *norms]


def test_a_layer_computed_twice_is_ours_both_times(lm: LM) -> None:
    """Checkpointing wraps what runs, where it begins within."""
    layers = layers_of(lm)
    own = states_and_gradient(lm)
    with layers.installed(), layers_recomputed(lm), recorded() as launched:
        ours = states_and_gradient(lm)
    torch.testing.assert_close(ours[1], own[1], rtol=1e-4, atol=1e-4)
    # Two layers, once more on the way back, and once without a gradient.
    assert launched.count("gated_kernel") == 2 * 3
    assert launched.count("gated_backward_kernel") == 2


def test_a_hooked_mlp_runs_with_its_hooks(own_lm: LM) -> None:
    layers = GPULayers(own_lm)
    mlp = own_lm.model.get_decoder().layers[-1].mlp
    seen: list[torch.Tensor] = []
    ids = torch.tensor([own_lm.vocabulary.ids(" the answer is")])
    with layers.installed(), torch.no_grad():
        plain = own_lm.hidden(input_ids=ids)
        mlp.register_forward_hook(lambda _, __, output: seen.append(output) or 0 * output)
        hooked = own_lm.hidden(input_ids=ids)
    assert len(seen) == 1
    assert not torch.allclose(hooked, plain)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_packed_suffixes_give_the_same(family: str) -> None:
    """The last MLP sees the rows that are read alone, forward and back."""
    lm = tiny_lm(family)
    segments = [Segment(5, None, (2, 4)), Segment(3, None, (1,))]
    embedded = lm.embed(torch.arange(20, 28)).requires_grad_()

    def states_and_gradient() -> tuple[torch.Tensor, torch.Tensor]:
        with packed(lm, segments) as forward:
            states = forward(embedded)
            (gradient,) = torch.autograd.grad(states.sin().sum(), embedded)
        return states.detach(), gradient

    own = states_and_gradient()
    with layers_of(lm).installed():
        ours = states_and_gradient()
    for found, expected in zip(ours, own, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def norm_of(lm: LM) -> Any:
    return lm.model.get_decoder().layers[0].input_layernorm


def shift_epsilon(lm: LM) -> None:
    def forward(self: Any, states: torch.Tensor) -> torch.Tensor:
        return states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + 3e-5) * self.weight

    norm = norm_of(lm)
    norm.__class__ = type("Shifted", (type(norm),), {"forward": forward})


def cut_off(limit: float) -> Any:
    def damage(lm: LM) -> None:
        mlp = lm.model.get_decoder().layers[0].mlp
        own = mlp.act_fn
        cut = {"forward": lambda _, gate: own(gate).clamp(max=limit)}
        mlp.act_fn = type("Cut", (nn.Module,), cut)()

    return damage


def rectify(lm: LM) -> None:
    lm.model.get_decoder().layers[0].mlp.act_fn = nn.ReLU()


def scale_residual(lm: LM) -> None:
    layer = lm.model.get_decoder().layers[0]
    own = type(layer).forward

    def forward(self: Any, hidden_states: torch.Tensor, **options: Any) -> torch.Tensor:
        return own(self, hidden_states, **options) + 1e-3 * hidden_states

    layer.__class__ = type("Scaled", (type(layer),), {"forward": forward})


def lose_an_argument(lm: LM) -> None:
    layer = lm.model.get_decoder().layers[0]
    own = type(layer).forward

    def forward(self: Any, hidden_states: torch.Tensor, **options: Any) -> torch.Tensor:
        return own(self, hidden_states, **options | {"position_ids": None})

    layer.__class__ = type("Forgetful", (type(layer),), {"forward": forward})


def add_a_part(lm: LM) -> None:
    lm.model.get_decoder().layers[0].router = nn.Linear(2, 2).requires_grad_(False)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (shift_epsilon, "norms 4 of 5 (no RMS norm of a known form), MLPs 2 of 2"),
        (cut_off(7.0), "MLPs 1 of 2 (of another form)"),
        (cut_off(400.0), "MLPs 1 of 2 (of another form)"),
        (rectify, "MLPs 1 of 2 (of another form)"),
        (scale_residual, "residual adds 1 of 2 (of another form)"),
        (lose_an_argument, "residual adds 1 of 2 (of another form)"),
        (add_a_part, "residual adds 1 of 2 (of another form)"),
        (
            lambda lm: norm_of(lm).register_forward_hook(print),
            "norms 4 of 5 (hooked), MLPs 2 of 2, residual adds 1 of 2 (hooked)",
        ),
    ],
)
def test_another_form_is_left_alone_with_a_reason(own_lm: LM, damage: Any, expected: str) -> None:
    damage(own_lm)
    assert expected in GPULayers(own_lm).note


def test_calls_of_another_kind_go_the_modules_own_way(lm: LM) -> None:
    """A batch of two, with a cache, and states of another type than the weights."""
    ids = torch.tensor([lm.vocabulary.ids(" the answer is")] * 2)
    wide = torch.randn(3, lm.embedding_width, dtype=torch.float64)
    with torch.inference_mode():
        own, norm = lm.model(input_ids=ids, use_cache=True), norm_of(lm)(wide)
        with layers_of(lm).installed():
            ours = lm.model(input_ids=ids, use_cache=True)
            assert torch.equal(norm_of(lm)(wide), norm)
    torch.testing.assert_close(ours.logits, own.logits, rtol=1e-4, atol=1e-4)
    assert ours.past_key_values.get_seq_length() == ids.shape[1]


def test_no_rows_are_no_rows(lm: LM) -> None:
    layer = lm.model.get_decoder().layers[0]
    for module in (layer.mlp, layer.input_layernorm):
        nothing = torch.zeros(1, 0, lm.embedding_width)
        own = module(nothing)
        with layers_of(lm).installed():
            assert module(nothing).shape == own.shape
