"""Weights of several layers as views of one matrix: the model's values, names and files stay."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from greater_fast.model.gpu.merged import merged_biases, merged_weights
from greater_fast.model.lm import LM


def layers(*sizes: int, width: int = 8, bias: bool = True) -> list[nn.Linear]:
    return [nn.Linear(width, size, bias=bias).requires_grad_(False) for size in sizes]


def test_weights_and_biases_become_views() -> None:
    parts = layers(5, 3, 3)
    before = [copy.deepcopy(part) for part in parts]
    weights, biases = merged_weights(parts), merged_biases(parts)
    assert weights is not None
    assert biases is not None
    assert torch.equal(weights, torch.cat([part.weight for part in before]))
    assert torch.equal(biases, torch.cat([part.bias for part in before]))
    inputs = torch.randn(4, 8)
    for part, own in zip(parts, before, strict=True):
        assert torch.equal(part(inputs), own(inputs))
        assert isinstance(part.weight, nn.Parameter)
        assert part.weight.untyped_storage().data_ptr() == weights.untyped_storage().data_ptr()
    parts[1].weight.fill_(7.0)  # changed in place: seen
    assert (weights[5:8] == 7.0).all()


def test_merged_layers_are_found_again() -> None:
    parts = layers(5, 3, 3)
    first, again = merged_weights(parts), merged_weights(parts)
    assert first is not None
    assert again is not None
    assert again.data_ptr() == first.data_ptr()
    assert again.shape == first.shape
    rest = merged_weights(parts[1:])
    assert rest is not None
    assert rest.data_ptr() == parts[1].weight.data_ptr()
    assert merged_weights(parts[::-1]) is None  # in another order, merged with others


def of_16_bits(parts: list[nn.Linear]) -> None:
    parts[1].to(torch.bfloat16)


def trained(parts: list[nn.Linear]) -> None:
    parts[0].weight.requires_grad_(True)


def transposed(parts: list[nn.Linear]) -> None:
    parts[1].weight.data = torch.randn(8, 3).T


def slice_of_another(parts: list[nn.Linear]) -> None:
    parts[0].weight.data = torch.randn(9, 8)[:5]


def tied(parts: list[nn.Linear]) -> None:
    parts[1].weight = parts[2].weight


def between_processes(parts: list[nn.Linear]) -> None:
    parts[0].weight.data.share_memory_()


def without_numbers(parts: list[nn.Linear]) -> None:
    parts[0].to("meta")


def of_a_derived_class(parts: list[nn.Linear]) -> None:
    parts[0].__class__ = type("Adapter", (nn.Linear,), {})


def narrower(parts: list[nn.Linear]) -> None:
    parts[1].weight.data = torch.randn(3, 7)


@pytest.mark.parametrize(
    "spoil",
    [
        of_16_bits,
        trained,
        transposed,
        slice_of_another,
        tied,
        between_processes,
        without_numbers,
        of_a_derived_class,
        narrower,
    ],
)
def test_others_are_left_alone(spoil: Any) -> None:
    parts = layers(5, 3, 3)
    spoil(parts)
    places = [part.weight.data_ptr() for part in parts]
    assert merged_weights(parts) is None
    assert [part.weight.data_ptr() for part in parts] == places


def test_no_bias_is_none_merged() -> None:
    parts = layers(5, 3)
    parts[1].bias = None  # type: ignore[assignment]
    assert merged_biases(parts) is None
    assert merged_weights(parts) is not None


def test_one_layer_after_another_takes_no_more_memory() -> None:
    """What was there before is given back as soon as no one holds it."""
    parts = layers(5, 3)
    storages = [part.weight.untyped_storage() for part in parts]
    merged_weights(parts)
    held = {part.weight.untyped_storage().data_ptr() for part in parts}
    assert len(held) == 1
    assert not held & {storage.data_ptr() for storage in storages}


def test_a_merged_model_is_saved_copied_and_trained(own_lm: LM, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = own_lm.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for layer in model.model.layers:
        assert merged_weights([layer.mlp.gate_proj, layer.mlp.up_proj]) is not None
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, tensor in before.items():
        assert torch.equal(model.state_dict()[name], tensor)
        assert torch.equal(again.state_dict()[name], tensor)
    twin = copy.deepcopy(model)
    twin.model.layers[0].mlp.gate_proj.weight.fill_(0.0)
    up = twin.model.layers[0].mlp.up_proj.weight
    assert torch.equal(up, before["model.layers.0.mlp.up_proj.weight"])
    gate = model.model.layers[0].mlp.gate_proj.weight.requires_grad_(True)
    model(torch.tensor([[3, 4]])).logits.sum().backward()
    torch.optim.SGD([gate], lr=1.0).step()
    after = model.state_dict()
    assert not torch.equal(gate, before["model.layers.0.mlp.gate_proj.weight"])
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(after[name], before[name])
