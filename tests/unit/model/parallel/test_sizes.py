"""What a rank has of a model, as its plan says; what it has in truth is compared end to end."""

import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

from greater_fast.memory.shapes import ModelShapes
from greater_fast.model.lm import LM
from greater_fast.model.parallel.sizes import bytes_of_rank, is_packed, shapes_of_rank, tensor_bytes
from greater_fast.ranks import Ranks
from tests.cases import tiny_lm


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_heads_and_inner_width_are_shared_out(num_ranks: int) -> None:
    for shape in shapes_of_rank(tiny_lm().model.config, num_ranks):
        assert (shape.num_heads, shape.num_kv_heads) == (4 // num_ranks, 2 // num_ranks)
        assert shape.inner == 96 // num_ranks
        assert (shape.key_size, shape.value_size) == (12, 12)


def test_what_is_gathered_is_whole_on_each_rank() -> None:
    """Phi-3 makes queries, keys and values by one layer, whose output every rank then has."""
    for shape in shapes_of_rank(tiny_lm("phi3").model.config, 2):
        assert (shape.num_heads, shape.num_kv_heads, shape.inner) == (4, 2, 96)


@pytest.mark.parametrize(("family", "num_ranks"), [("llama", 2), ("gemma2", 2), ("llama", 4)])
def test_weights_are_shared_out_but_for_norms(family: str, num_ranks: int) -> None:
    model = tiny_lm(family).model
    whole = bytes_of_rank(model, 1)
    assert whole == sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    kept = sum(t.nbytes for t in model.buffers())
    kept += sum(p.nbytes for p in model.parameters() if p.ndim == 1)
    assert bytes_of_rank(model, num_ranks) == pytest.approx(
        kept + (whole - kept) / num_ranks, abs=64
    )


def test_a_wrapper_has_the_bytes_of_what_it_wraps() -> None:
    """torchao's weights have the shape and the type of their numbers unpacked."""
    parts = [torch.zeros(4, 8, dtype=torch.bfloat16) for _ in range(2)]
    wrapper = TwoTensor(*parts)
    assert is_packed(wrapper)
    assert wrapper.nbytes == 64
    assert tensor_bytes(wrapper) == 128
    model = torch.nn.Linear(8, 4, bias=False)
    model.weight = torch.nn.Parameter(wrapper, requires_grad=False)
    assert bytes_of_rank(model, 1) == 128


def test_a_plan_of_the_memory_counts_a_ranks_part(lm: LM) -> None:
    part = LM(lm.model, lm.tokenizer, lm.name, lm.vocabulary, lm.end_ids, ranks=Ranks(0, 2))
    whole, half = ModelShapes.of(lm), ModelShapes.of(part)
    assert half.kv_token_bytes == whole.kv_token_bytes / 2
    assert half.weight_bytes < 0.51 * whole.weight_bytes
    assert half.activation_bytes(8) < whole.activation_bytes(8)
    assert (whole.num_ranks, half.num_ranks) == (1, 2)
