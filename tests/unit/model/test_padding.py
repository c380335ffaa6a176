"""Rows of several lengths in one pass: padded where that changes nothing, else apart."""

from typing import Any

import pytest
import torch

from greater_fast.model.checks import _are_same
from greater_fast.model.forwards import alike, lengths_of
from greater_fast.model.lm import LM
from greater_fast.model.padding import num_tokens, row_groups
from tests.cases import tiny_lm
from tests.unit.model.attention.test_far_attention import zoo_lm

SEQUENCES = [[(7 * i + k) % 1100 + 5 for i in range(n)] for k, n in enumerate((9, 70, 3, 9, 40))]
ROWS = [(0, 8), (69,), (1,), (), (3, 39)]


def alone(lm: LM) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat(
            [
                lm.hidden(input_ids=torch.tensor([ids]))[0, list(rows)]
                for ids, rows in zip(SEQUENCES, ROWS, strict=True)
            ]
        )


@pytest.mark.parametrize(
    ("name", "padded"),
    [("gpt2", True), ("mamba", True), ("phi3 with long RoPE", False), ("bart", True)],
)
def test_states_are_those_of_each_row_alone(name: str, padded: bool) -> None:
    lm = zoo_lm(name)
    assert lm.pads == padded
    torch.testing.assert_close(lm.hidden_at(SEQUENCES, ROWS), alone(lm), rtol=1e-4, atol=1e-4)


def test_a_model_that_mixes_rows_is_given_them_apart(own_lm: LM) -> None:
    """Rows of one length it mixes just as little as it is asked: here, by the width alone."""
    attention = own_lm.model.model.layers[0].self_attn
    own = attention.forward

    def sees_the_width(hidden_states: torch.Tensor, **options: Any) -> Any:
        return own(hidden_states=hidden_states * (1 + hidden_states.shape[1]), **options)

    attention.forward = sees_the_width
    own_lm.model.model.layers[0].input_layernorm.forward = lambda states: states
    vars(own_lm).pop("pads", None)
    assert not own_lm.pads
    found = own_lm.hidden_at(SEQUENCES, ROWS)
    torch.testing.assert_close(found, alone(own_lm), rtol=1e-4, atol=1e-4)


def test_groups() -> None:
    lengths = [9, 70, 3, 9]
    assert row_groups(lengths, padded=True) == [[0, 1, 2, 3]]
    assert row_groups(lengths, padded=False) == [[0, 3], [1], [2]]
    assert row_groups([], padded=True) == row_groups([], padded=False) == []
    assert num_tokens(tiny_lm(), lengths) == 4 * 70
    assert num_tokens(zoo_lm("phi3 with long RoPE"), lengths) == sum(lengths)


def test_alike_is_relative_to_each_row() -> None:
    own = torch.tensor([[100.0, 0.0], [0.01, 0.0]])
    assert alike(own + torch.tensor([[0.5, 0.5], [0.0, 0.0]]), own)
    assert not alike(own + torch.tensor([[0.0, 0.0], [0.001, 0.0]]), own)
    assert not alike(torch.full_like(own, torch.nan), own)
    half = own.bfloat16()
    assert alike(half * 1.05, half)


def test_lengths_are_taken_on_the_cpu() -> None:
    """In float64, which an Apple GPU has not."""
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    found = lengths_of(vectors)
    assert (found.dtype, found.device.type, found.requires_grad) == (torch.float64, "cpu", False)
    assert found.tolist() == [5.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_another_kernel_rounds_is_no_look_ahead(dtype: torch.dtype) -> None:
    """In 16 bits: a bit of a large state is more than the bound of float32."""
    states = (8 * torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))).to(dtype)
    rounded = states * (1 + torch.finfo(torch.bfloat16).eps)
    assert _are_same(states, states)
    assert _are_same(rounded.to(dtype), states) == (dtype == torch.bfloat16)
    assert not _are_same(states + 0.3 * states.flip(-1), states)
