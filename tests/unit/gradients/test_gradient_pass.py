"""Whole sequences for a gradient: ids go in, and a leaf stands in for one embedding of each row."""

from typing import Any

import pytest
import torch

from greater_fast.gradients import gradient_pass
from greater_fast.gradients.example_loss import Terms
from greater_fast.gradients.gradient_pass import (
    ExampleSequence,
    PackedPass,
    WholePass,
    check_gradient,
    choose_pass,
)
from greater_fast.gradients.packing_trial import why_not
from greater_fast.gradients.recomputing import activations_recomputed
from greater_fast.model.lm import LM
from greater_fast.rollouts.plain import PlainRolloutEngine
from tests.cases import tiny_lm
from tests.unit.model.attention.test_far_attention import zoo_lm


def batch_of(lengths: tuple[int, ...]) -> list[ExampleSequence]:
    return [
        ExampleSequence(
            row=number,
            ids=tuple((7 * i + number) % 1100 + 5 for i in range(length)),
            place=1 + number,
            read_rows=(length - 3, length - 2),
            terms=Terms((), 0.0, (5, 6)),
        )
        for number, length in enumerate(lengths)
    ]


def whole_gradient(lm: LM, batch: list[ExampleSequence]) -> torch.Tensor:
    leaf = lm.embed(torch.tensor([s.ids[s.place] for s in batch])).detach().requires_grad_()
    with activations_recomputed(lm), WholePass(lm).states(batch) as states_of:
        states = states_of(leaf)
        (gradient,) = torch.autograd.grad((states * states.detach().cos()).sum(), leaf)
    return gradient


@pytest.mark.parametrize("name", ["gemma3n_text", "gemma4_text", "opt of 350M", "rwkv"])
def test_it_is_the_gradient_of_each_row_alone(name: str) -> None:
    """And that of a vector which is added to what the embedding gives at one place."""
    lm = zoo_lm(name)
    batch = batch_of((9, 30, 9))
    found = whole_gradient(lm, batch)
    for number, sequence in enumerate(batch):
        alone = whole_gradient(lm, [sequence])
        torch.testing.assert_close(found[number], alone[0], rtol=1e-3, atol=1e-4)
        module = lm.model.get_input_embeddings()
        own, changed = module.forward, torch.zeros(lm.embedding_width, requires_grad=True)

        def forward(
            ids: torch.Tensor, own: Any = own, changed: Any = changed, place: int = sequence.place
        ) -> torch.Tensor:
            before, at, behind = own(ids).split([place, 1, ids.shape[1] - place - 1], 1)
            return torch.cat([before, at + changed, behind], 1)

        module.forward = forward
        ids = torch.tensor([sequence.ids[:-1]])
        states = lm.hidden(input_ids=ids)[0, list(sequence.read_rows)]
        del module.forward
        (expected,) = torch.autograd.grad((states * states.detach().cos()).sum(), changed)
        torch.testing.assert_close(alone[0], expected, rtol=1e-3, atol=1e-4)


def test_states_are_the_models_own_and_nothing_stays() -> None:
    lm = tiny_lm()
    batch = batch_of((20, 7))
    module = lm.model.get_input_embeddings()
    with torch.no_grad(), WholePass(lm).states(batch) as states_of:
        found = states_of(lm.embed(torch.tensor([s.ids[s.place] for s in batch])))
    expected = lm.hidden_at([s.ids[:-1] for s in batch], [s.read_rows for s in batch])
    torch.testing.assert_close(found, expected)
    assert not module._forward_hooks


def test_tokens_are_counted_with_their_padding() -> None:
    assert WholePass(tiny_lm()).num_tokens(batch_of((20, 7))) == 2 * 19
    assert WholePass(zoo_lm("phi3 with long RoPE")).num_tokens(batch_of((20, 7))) == 19 + 6


def test_the_way_is_chosen_by_what_the_model_takes() -> None:
    packed, whole = PlainRolloutEngine(tiny_lm()), PlainRolloutEngine(zoo_lm("rwkv"))
    for engine in (packed, whole):
        check_gradient(engine)
    assert isinstance(choose_pass(packed), PackedPass)
    assert isinstance(choose_pass(whole), WholePass)


def test_a_model_without_a_gradient_is_refused_in_words(own_lm: LM) -> None:
    class Whole(PlainRolloutEngine):
        can_pack = False  # type: ignore[assignment]

    engine = Whole(own_lm)
    check_gradient(engine)
    layer = own_lm.model.model.layers[0]
    own = layer.forward

    def cut(hidden_states: torch.Tensor, *args: Any, **options: Any) -> Any:
        return own(hidden_states.detach(), *args, **options)

    layer.forward = cut
    with pytest.raises(ValueError, match=r"can be evaluated and not optimised: its "):
        check_gradient(engine)

    def fails(*_: Any, **__: Any) -> Any:
        raise AssertionError("use train mode")

    layer.forward = fails
    with pytest.raises(ValueError, match="ends in AssertionError: use train mode"):
        check_gradient(engine)


@pytest.mark.parametrize(
    ("packs", "family", "kernels", "reason"),
    [
        (True, "llama", "triton", None),
        (False, "llama", "triton", "whole sequences go through the model's own attention"),
        (True, "llama", "reference", "attention is torch's: its kernels were asked for"),
        (True, "deepseek_v3", "triton", "attention is torch's: keys of 16 numbers a head"),
        (True, "qwen3_moe", "triton", "several experts make of a token is added up in no order"),
    ],
)
def test_on_a_gpu_a_note_says_where_bits_may_differ(
    packs: bool, family: str, kernels: str, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny_lm() if family == "llama" else zoo_lm(family)
    engine = PlainRolloutEngine(lm)
    engine.can_pack = packs
    assert check_gradient(engine, kernels) == ()
    monkeypatch.setattr(LM, "device", torch.device("cuda"))
    for name in ("_why_not_whole", "_what_cuts"):
        monkeypatch.setattr(gradient_pass, name, lambda _: None)
    monkeypatch.setattr(gradient_pass, "_repeats", lambda *_: True)
    notes = check_gradient(engine, kernels)
    assert len(notes) == (reason is not None)
    for note in notes:
        assert note.startswith("gradient: its last bits may differ from run to run (")
        assert str(reason) in note


def test_on_a_gpu_it_is_tried_whether_bits_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm()
    engine = PlainRolloutEngine(lm)
    assert gradient_pass._repeats(engine, "auto")
    calls: list[int] = []

    def restless(_: Any, __: Any, options: dict[str, Any]) -> Any:
        calls.append(len(calls))
        return (), options | {"inputs_embeds": options["inputs_embeds"] * (1 + 1e-6 * len(calls))}

    hook = lm.decoder.register_forward_pre_hook(restless, with_kwargs=True)
    assert not gradient_pass._repeats(engine, "auto")
    hook.remove()
    monkeypatch.setattr(gradient_pass, "_repeats", lambda *_: False)
    assert check_gradient(engine) == ()
    monkeypatch.setattr(LM, "device", torch.device("cuda"))
    monkeypatch.setattr(gradient_pass, "_what_cuts", lambda _: None)
    (note,) = check_gradient(engine, "triton")
    assert "(two passes over the same tokens differ)" in note


class InferenceLinear(torch.nn.Module):
    """A linear layer as a kernel for inference has it: its output knows no gradient."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.register_buffer("packed", linear.weight.detach())

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return (states @ self.packed.T).detach()


@pytest.mark.parametrize("packs", [True, False])
def test_layers_that_cut_the_gradient_in_silence_are_refused(
    own_lm: LM, monkeypatch: pytest.MonkeyPatch, packs: bool
) -> None:
    """What a layer adds to the state has none, and what is before it in the row has: enough for
    a packed pass and the model's own to be equally wrong."""
    layer = own_lm.model.model.layers[1].mlp
    layer.down_proj = InferenceLinear(layer.down_proj)
    engine = PlainRolloutEngine(own_lm)
    monkeypatch.setattr(PlainRolloutEngine, "can_pack", packs)
    with pytest.raises(ValueError, match=r"layers.1.mlp.down_proj \(InferenceLinear\) would pass"):
        check_gradient(engine)


def test_nothing_of_a_watched_gradient_stays(own_lm: LM) -> None:
    check_gradient(PlainRolloutEngine(own_lm))
    assert not any(module._forward_hooks for module in own_lm.model.modules())


def test_further_embeddings_are_read_by_the_tokens_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the model compares each embedding with those of its whole vocabulary."""
    for name in ("gemma3n_text", "gemma4_text"):
        lm = zoo_lm(name)
        given: list[Any] = []
        hook = lm.decoder.register_forward_pre_hook(
            lambda _, __, options, given=given: given.append(options), with_kwargs=True
        )
        assert why_not(lm) is None
        hook.remove()
        assert given
        assert all("inputs_embeds" not in options for options in given)
        assert not lm.model.get_input_embeddings()._forward_hooks
