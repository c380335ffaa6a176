"""What would make a gradient over packed suffixes wrong is found when a model is tried."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch

from greater_fast.gradients import packing_trial
from greater_fast.gradients.packed_row import PackedRow
from greater_fast.gradients.packing_trial import can_pack, why_not
from greater_fast.model.attention.interface import AttentionOptions
from greater_fast.model.forwards import replaced_forwards
from greater_fast.model.gpu.layers import GPULayers
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.plain import PlainRolloutEngine
from tests.cases import tiny_lm, tokenizer
from tests.tiny import tiny_model

Damage = Callable[[torch.Tensor], torch.Tensor]
Attend = Callable[[PackedRow, int, Sequence[torch.Tensor], AttentionOptions], torch.Tensor]


class WithoutGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor) -> torch.Tensor:
        return states.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(gradient)


def no_attention(hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
    return hidden_states, None


def half_backward(states: torch.Tensor) -> torch.Tensor:
    return (states + WithoutGradient.apply(states)) / 2  # type: ignore[no-any-return,no-untyped-call]


@pytest.fixture
def damage_packed(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Damage], None]:
    """Let one layer attend wrongly over packed rows alone."""
    own: Attend = PackedRow.attend

    def damage(damaged_layer: int, change: Damage) -> None:
        def attend(
            row: PackedRow,
            layer: int,
            states: Sequence[torch.Tensor],
            options: AttentionOptions,
        ) -> torch.Tensor:
            output = own(row, layer, states, options)
            return change(output) if layer == damaged_layer else output

        monkeypatch.setattr(PackedRow, "attend", attend)

    return damage


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def any_lm(request: pytest.FixtureRequest) -> LM:
    model = tiny_model("llama", len(tokenizer("llama3")), request.param)
    return load_lm((model, tokenizer("llama3")))


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda states: states.roll(1, 1), "forward"),  # heads
        (lambda states: states.roll(1, 0), "forward"),  # tokens
        (lambda states: states * 0, "forward"),
        (half_backward, "backward"),
    ],
)
def test_one_layer_that_is_wrong_is_enough(
    any_lm: LM,
    damage_packed: Callable[[int, Damage], None],
    layer: int,
    change: Damage,
    what: str,
) -> None:
    assert why_not(any_lm) is None
    damage_packed(layer, change)
    assert f"a packed {what} pass differs from its own: by" in str(why_not(any_lm))


class HalfTheGradient:
    """Layers of which one is right forward, and wrong back."""

    are_all_linears, note = False, ""

    def __init__(self, lm: LM) -> None:
        self.norm = lm.model.model.layers[1].input_layernorm

    def installed(self) -> AbstractContextManager[None]:
        own = self.norm.forward
        return replaced_forwards([(self.norm, lambda states: half_backward(own(states)))])


def test_layers_are_tried_as_they_run_in_the_pass(own_lm: LM) -> None:
    assert why_not(own_lm, layers=GPULayers(own_lm)) is None
    layers = HalfTheGradient(own_lm)
    reason = why_not(own_lm, layers=layers)
    assert "a packed backward pass differs from its own: by" in str(reason)
    for engine in (RolloutEngine(own_lm), PlainRolloutEngine(own_lm)):
        assert engine.can_pack
        vars(engine).update(layers=layers)
        del engine.can_pack
        assert not engine.can_pack


def test_a_layer_that_attends_by_itself_is_counted(own_lm: LM) -> None:
    """What comes out is the same in both passes, so that nothing but the count tells."""
    own_lm.model.model.layers[1].self_attn.forward = lambda hidden_states, **_: (
        hidden_states,
        None,
    )
    assert why_not(own_lm) == "1 of its 2 layers use the attention interface"


def test_a_layer_that_attends_twice_is_counted(own_lm: LM) -> None:
    attention = own_lm.model.model.layers[1].self_attn
    own = attention.forward

    def twice(**options: Any) -> Any:
        own(**options)
        return own(**options)

    attention.forward = twice
    assert why_not(own_lm) == "its layers attend more than once each"


def test_lengths_at_the_edges_of_a_kernels_tiles_are_among_those_tried() -> None:
    rows = []
    own = PackedRow.__init__

    def kept(row: PackedRow, *arguments: Any) -> None:
        own(row, *arguments)
        rows.append([(s.num_before, s.num_before + s.num_tokens) for s in row.segments])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackedRow, "__init__", kept)
        assert why_not(tiny_lm()) is None
    prefixes, lengths = zip(*rows[-1], strict=True)
    assert {length % 32 for length in lengths} == {1, 2}
    assert min(prefixes) > 2
    assert min(prefixes) < 16 < max(prefixes)  # within one block, and across two


def test_a_model_that_makes_more_of_rounding_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """As random weights of a wide model do: fixed bounds alone would refuse it."""
    model = tiny_model("llama", len(tokenizer("llama3")), torch.bfloat16)
    lm = load_lm((model, tokenizer("llama3")))
    monkeypatch.setattr(packing_trial, "_STATES", 0.1)
    monkeypatch.setattr(packing_trial, "_GRADIENTS", 0.1)
    assert why_not(lm) is None
    with monkeypatch.context() as patch:
        patch.setattr(packing_trial, "_SHAKEN", 0.1)
        assert "a packed forward pass differs from its own: by" in str(why_not(lm))
    own = packing_trial._shaken
    monkeypatch.setattr(
        packing_trial, "_shaken", lambda *given: [x * torch.nan for x in own(*given)]
    )
    assert "a packed forward pass differs from its own: by" in str(why_not(lm))


def test_memory_that_ends_is_no_property_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*_: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(packing_trial, "packed_states", run_out)
    with pytest.raises(MemoryError, match="cpu has no memory for the gradient of 28 tokens: lower"):
        why_not(tiny_lm())


def test_a_reason_of_a_models_own_words_is_logged_fit_to_be_seen(
    lm: LM, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing_trial, "why_not", lambda *_: "it said \x1b[2J")
    assert not can_pack(lm)
    assert caplog.messages == ["gradient: whole sequences, which takes longer (it said \\x1b[2J)"]


def test_the_reason_is_logged(own_lm: LM, caplog: pytest.LogCaptureFixture) -> None:
    assert can_pack(own_lm)
    assert not caplog.messages
    own_lm.model.model.layers[1].self_attn.forward = lambda hidden_states, **_: (
        hidden_states,
        None,
    )
    assert not can_pack(own_lm)
    (line,) = caplog.messages
    assert line == (
        "gradient: whole sequences, which takes longer (1 of its 2 layers use the attention "
        "interface)"
    )


class CalledByKeyword(torch.nn.Module):
    """The last layer's MLP, as a layer of a user's own may call it."""

    def __init__(self, own: torch.nn.Module) -> None:
        super().__init__()
        self.own = own

    def __call__(self, states: torch.Tensor) -> Any:
        return super().__call__(states=states)

    def forward(self, states: torch.Tensor) -> Any:
        return self.own(states)


def test_rows_that_a_step_reads_are_tried_too(own_lm: LM) -> None:
    """Of the last MLP a step computes few rows, which takes one that is called as others are."""
    layer = own_lm.decoder.layers[-1]
    layer.mlp = CalledByKeyword(layer.mlp)
    reason = why_not(own_lm)
    assert reason is not None
    assert "IndexError" in reason
