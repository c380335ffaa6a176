"""What a gradient pass keeps, how it sizes micro-batches, and what it does when memory ends."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from greater_fast.engine import Rollout
from greater_fast.gradients import recomputing
from greater_fast.gradients.recomputing import activations_recomputed, layers_recomputed
from greater_fast.gradients.segments import Segment
from greater_fast.gradients.suffix_forward import packed
from greater_fast.memory import activations as activation_memory
from greater_fast.memory import shapes
from greater_fast.memory.activations import PassPlan, plan_pass
from greater_fast.memory.shapes import ModelShapes
from greater_fast.model.byte_sizes import free_bytes
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.plain import PlainRolloutEngine
from greater_fast.search.gradient import prompt_gradient
from greater_fast.search.nouns import Position
from tests.cases import layouts_of, small_config, tiny_lm, tokenizer
from tests.tiny import tiny_model

CPU = torch.device("cpu")
FAMILIES = pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3", "phi3"])
ROLLOUTS = [Rollout(tuple(range(20 + 9 * i, 20 + 11 * i))) for i in range(5)]


@functools.cache
def tried_engine(lm: LM) -> PlainRolloutEngine:
    """An engine that has tried a model's gradient."""
    engine = PlainRolloutEngine(lm)
    assert engine.can_pack
    return engine


def gradient(lm: LM, **settings: Any) -> torch.Tensor:
    layouts = layouts_of(lm, 5)
    config = small_config(temperature=0.5, **settings)
    position = Position(0, 3, layouts.prompt_ids)
    return prompt_gradient(tried_engine(lm), layouts, ROLLOUTS, position, config)


@contextlib.contextmanager
def layer_calls(lm: LM) -> Iterator[list[bool]]:
    """Whether a gradient is asked for, one entry a call of the first layer's MLP."""
    tried_engine(lm)
    calls: list[bool] = []
    mlp = lm.model.get_decoder().layers[0].mlp
    hook = mlp.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    yield calls
    hook.remove()


@FAMILIES
def test_layers_computed_twice_change_no_bit(family: str) -> None:
    lm = tiny_lm(family)
    with layer_calls(lm) as calls:
        once = gradient(lm, gradient_checkpointing="off")
        number = sum(calls)
        calls.clear()
        twice = gradient(lm, gradient_checkpointing="on")
        assert sum(calls) == 2 * number > 0
    assert torch.equal(once, twice)
    layers = [m for m in lm.model.modules() if isinstance(m, GradientCheckpointingLayer)]
    assert not any("forward" in vars(layer) or layer.training for layer in layers)


def test_a_layer_with_its_own_forward_keeps_it() -> None:
    lm = load_lm((tiny_model("llama", len(tokenizer("llama3"))), tokenizer("llama3")))
    layer = lm.model.get_decoder().layers[0]
    own = layer.forward
    calls = []

    def forward(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return own(*args, **options)

    layer.forward = forward
    with layers_recomputed(lm):
        assert layer.forward is not forward
    assert layer.forward is forward
    gradient(lm, gradient_checkpointing="on")
    assert calls


def test_a_model_without_such_layers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are asked for; else none is computed again, however short memory is."""
    lm = tiny_lm()
    expected = gradient(lm)
    monkeypatch.setattr(activation_memory, "free_bytes", lambda _: 1)
    for module in (recomputing, shapes):
        monkeypatch.setattr(module, "recomputable_layers", lambda _: [])
    assert torch.equal(gradient(lm), expected)
    with pytest.raises(ValueError, match="no layers to checkpoint: set gradient_checkpointing='of"):
        gradient(lm, gradient_checkpointing="on")


def kept(
    lm: LM, num_tokens: int, recomputing: Callable[[LM], Any], *, all_read: bool = False
) -> tuple[torch.Tensor, int]:
    """Gradient of a packed row, and the bytes that its graph keeps, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in lm.model.parameters()}
    storages: dict[int, int] = {}
    pack_hooks = torch.autograd.graph.saved_tensors_hooks

    class Counting(pack_hooks):  # type: ignore[valid-type, misc]
        def __init__(self, pack: Any, unpack: Any) -> None:
            def count(tensor: torch.Tensor) -> Any:
                packed = pack(tensor)
                for part in packed if isinstance(packed, tuple) else (packed,):
                    if isinstance(part, torch.Tensor):
                        storage = part.untyped_storage()
                        if storage.data_ptr() not in weights:
                            storages[storage.data_ptr()] = storage.nbytes()
                return packed

            super().__init__(count, unpack)

    torch.autograd.graph.saved_tensors_hooks = Counting  # type: ignore[misc]
    try:
        ids = torch.arange(num_tokens) * 7 % 1000 + 5
        embedded = lm.embed(ids).requires_grad_()
        half = num_tokens // 2
        segments = [
            Segment(half, None, range(half) if all_read else (half - 1,)),
            Segment(num_tokens - half, None, range(half) if all_read else (3, half - 1)),
        ]
        with all_kept(lm), recomputing(lm), packed(lm, segments) as forward:
            states = forward(embedded)
            (found,) = torch.autograd.grad(states.square().sum(), embedded)
    finally:
        torch.autograd.graph.saved_tensors_hooks = pack_hooks  # type: ignore[misc]
    return found, sum(storages.values())


@FAMILIES
def test_activations_computed_twice_change_no_bit(family: str) -> None:
    lm = tiny_lm(family)
    plain, all_bytes = kept(lm, 64, all_kept)
    found, fewer_bytes = kept(lm, 64, activations_recomputed)
    assert torch.equal(found, plain)
    # The last layer's MLP is there for three rows.
    layers = lm.model.config.num_hidden_layers - 1
    assert all_bytes - fewer_bytes == pytest.approx(layers * 64 * 96 * 4, rel=0.05)
    assert not lm.model.get_decoder().layers[0].mlp._forward_hooks


@contextlib.contextmanager
def all_kept(_: LM) -> Iterator[None]:
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.detach(), lambda x: x):
        yield


@FAMILIES
def test_the_estimate_is_rather_too_much(family: str) -> None:
    lm = tiny_lm(family)
    for num_tokens in (64, 256):
        _, number = kept(lm, num_tokens, activations_recomputed)
        # Keys of a prefix are counted, and the last layer whole.
        assert number < ModelShapes.of(lm).activation_bytes(num_tokens) < 4 * number
        # Of a reasoning every token is read: the states and their gradient come on top.
        _, number = kept(lm, num_tokens, activations_recomputed, all_read=True)
        number += 2 * num_tokens * 48 * 4
        assert number < ModelShapes.of(lm).activation_bytes(num_tokens) < 4 * number
    assert ModelShapes.of(lm).activation_bytes(128) == 2 * ModelShapes.of(lm).activation_bytes(64)
    assert ModelShapes.of(lm).activation_bytes(64, checkpointing=True) < ModelShapes.of(
        lm
    ).activation_bytes(64)


def of_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def of_a_cpu() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def of_numpy() -> None:
    np.empty(1 << 60, np.uint8)


@pytest.mark.parametrize("end_memory", [of_a_gpu, of_a_cpu, of_numpy])
def test_a_micro_batch_that_does_not_fit_is_halved(
    end_memory: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    lm = tiny_lm()
    expected = gradient(lm, gradient_batch_tokens=10_000)
    sizes: list[int] = []

    def run_out(_: Any, __: Any, options: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            size = options["inputs_embeds"].shape[1]
            sizes.append(size)
            if size > 45:
                end_memory()

    hook = lm.model.get_decoder().register_forward_pre_hook(run_out, with_kwargs=True)
    try:
        found = gradient(lm, gradient_batch_tokens=10_000)
    finally:
        hook.remove()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    failed = [size for size in sizes if size > 45]
    done = [size for size in sizes if size <= 45]
    assert len(failed) == 2
    assert failed[1] <= failed[0] // 2
    assert sum(done) == failed[0]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert caplog.messages[0] == (
        f"the gradient of {failed[0]} tokens at a time does not fit the memory of cpu: it goes on "
        f"with {failed[0] // 2} at most (gradient_batch_tokens)"
    )
    assert sizes.index(done[0]) == 2  # it goes on, and asks for no more again
    assert len(done) == 5


def test_another_error_is_no_end_of_memory() -> None:
    lm = tiny_lm()
    tried_engine(lm)

    def fail(*_: Any) -> None:
        if torch.is_grad_enabled():
            raise RuntimeError("shapes cannot be multiplied")

    hook = lm.model.get_decoder().register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            gradient(lm)
    finally:
        hook.remove()


@pytest.mark.parametrize("setting", ["auto", "off", "on"])
def test_one_example_that_does_not_fit(setting: str) -> None:
    """`auto` tries once more with layers computed twice; then an error says what to do."""
    lm = tiny_lm()
    tried_engine(lm)
    tries: list[bool] = []

    def run_out(*_: Any) -> None:
        if torch.is_grad_enabled():
            tries.append("forward" in vars(lm.model.get_decoder().layers[0]))
            raise torch.OutOfMemoryError

    hook = lm.model.get_decoder().register_forward_pre_hook(run_out)
    text = r"the gradient of example \d alone, \d+ tokens, does not fit the memory of cpu: "
    text += "set gradient_checkpointing='auto', " if setting == "off" else "lower kv_cache_bytes"
    try:
        with pytest.raises(MemoryError, match=text):
            gradient(lm, gradient_batch_tokens=1, gradient_checkpointing=setting)
    finally:
        hook.remove()
    assert tries == {"auto": [False, True], "off": [False], "on": [True]}[setting]


def test_the_plan_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm()
    free = 1 << 40
    monkeypatch.setattr(activation_memory, "free_bytes", lambda _: free)
    assert plan_pass(lm, [100, 200], small_config()) == PassPlan(128, False)
    assert plan_pass(lm, [900], small_config(gradient_batch_tokens=77)) == PassPlan(77, False)
    free = 4 * ModelShapes.of(lm).activation_bytes(128)  # a quarter of it is used
    assert plan_pass(lm, [100, 100], small_config()) == PassPlan(128, False)
    assert plan_pass(lm, [100, 129], small_config()) == PassPlan(128, True)
    assert (
        plan_pass(lm, [100, 129], small_config(gradient_checkpointing="off")).checkpointing is False
    )
    few = small_config(gradient_batch_tokens=120)
    assert plan_pass(lm, [100, 101], few) == PassPlan(120, False)
    assert plan_pass(lm, [100, 129], few) == PassPlan(120, True)
    monkeypatch.setattr(activation_memory, "free_bytes", lambda _: None)
    assert plan_pass(lm, [10_000], small_config()) == PassPlan(128, False)


def test_the_plan_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm()
    monkeypatch.setattr(LM, "device", torch.device("cuda"))
    free = 1 << 40
    monkeypatch.setattr(activation_memory, "free_bytes", lambda _: free)
    lengths = [300, 400, 5000]
    assert plan_pass(lm, lengths, small_config()) == PassPlan(4096, False)
    free = 10 * ModelShapes.of(lm).activation_bytes(900) // 7 + 9
    assert plan_pass(lm, lengths[:2], small_config()) == PassPlan(900, False)
    plan = plan_pass(lm, [300, 901], small_config())
    assert plan.checkpointing
    assert plan.max_tokens > 900
    assert plan_pass(lm, lengths, small_config(gradient_batch_tokens=50)) == PassPlan(50, True)


def test_free_memory_is_read() -> None:
    found = free_bytes(CPU)
    assert found is not None
    assert 1 << 20 < found < 1 << 50
    assert free_bytes(torch.device("meta")) is None
