"""`activation(gate) up` and its gradients, against torch in float64."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from greater_fast.kernels.layers.gated import ACTIVATIONS, gated
from tests.kernels.arithmetic import DTYPES, distance, random_matrix

pytestmark = pytest.mark.usefixtures("gpu_if_any")
SHAPES = [(1, 1), (3, 5), (2, 96), (3, 1100)]


def activation(x: torch.Tensor, name: str) -> torch.Tensor:
    if name == "silu":
        return F.silu(x)
    return F.gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")


def oracle(gate: torch.Tensor, up: torch.Tensor, name: str) -> torch.Tensor:
    return activation(gate, name) * up


def inputs(num_rows: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """With gates on both sides of where an activation bends, and far out."""
    gate = random_matrix(num_rows, width, dtype, 1).mul_(3)
    gate[:, 0] = -100.0
    return gate, random_matrix(num_rows, width, dtype, 2).contiguous()


def check(found: torch.Tensor, own: torch.Tensor, exact: torch.Tensor) -> None:
    """At most twice as far from float64 as torch's own operators in the same type."""
    assert found.dtype == own.dtype
    assert distance(found, exact) <= 2 * distance(own, exact) + 1e-6 * float(exact.abs().max())


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_ways(name: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    pair = inputs(*shape, dtype)
    given = random_matrix(*shape, dtype, 3)

    def run(product: Any, kind: torch.dtype) -> list[torch.Tensor]:
        leaves = [tensor.to(kind).requires_grad_() for tensor in pair]
        outputs = product(*leaves, name)
        return [outputs.detach(), *torch.autograd.grad(outputs, leaves, given.to(kind))]

    exact = run(oracle, torch.float64)
    own = run(oracle, dtype)
    for results in zip(run(gated, dtype), own, exact, strict=True):
        check(*results)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_one_tensor_that_holds_both(name: str) -> None:
    gate, up = inputs(3, 80, torch.float32)
    both = torch.cat([gate, up], 1).requires_grad_()
    assert torch.equal(gated(both, None, name), gated(gate, up, name))
    leaves = [tensor.clone().requires_grad_() for tensor in (gate, up)]
    given = random_matrix(3, 80, torch.float32, 3)
    (found,) = torch.autograd.grad(gated(both, None, name), both, given)
    apart = torch.autograd.grad(gated(*leaves, name), leaves, given)
    assert torch.equal(found, torch.cat(apart, 1))


def test_nothing_but_inputs_is_kept() -> None:
    both = torch.randn(3, 32).requires_grad_()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        gated(both, None, "silu")
    assert [tensor.data_ptr() for tensor in kept] == [both.data_ptr()]


def test_a_row_has_its_own_bits() -> None:
    gate, up = torch.randn(2, 7, 96)
    assert torch.equal(gated(gate[3:4], up[3:4], "silu"), gated(gate, up, "silu")[3:4])
    assert gated(gate[:0], up[:0], "silu").shape == (0, 96)


def test_wrong_arguments() -> None:
    x = torch.zeros(3, 8)
    wrong: list[tuple[Any, str]] = [
        ((x, x, "relu"), "got activation 'relu', expected one of silu"),
        ((x[0], x[0], "silu"), "gate: got"),
        ((x.double(), None, "silu"), "gate: got torch.float64"),
        ((x[:, 1:], None, "silu"), "an even N"),
        ((x.T.contiguous().T, None, "silu"), "gate: got"),
        ((x, x[:, 1:], "silu"), "up: got"),
        ((x, x.half(), "silu"), "up: got"),
        ((x, x.to("meta"), "silu"), "got tensors on"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            gated(*arguments)
