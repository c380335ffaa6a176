"""The Triton kernels of log-probabilities against float64."""

import math

import pytest
import torch

from greater_fast.kernels.dispatch import target_logprob
from greater_fast.kernels.reference import Head
from greater_fast.kernels.vocabulary import target_logprob_backward as backward
from tests.kernels.arithmetic import (
    DTYPES,
    all_products,
    distance,
    log_softmax,
    random_ids,
    random_matrix,
)

pytestmark = pytest.mark.usefixtures("gpu_if_any")
SHAPES = [(1, 1, 1), (3, 130, 33), (129, 97, 9), (2, 600, 24)]  # R, V, D
HEADS = [(1.0, 0.0), (0.25, 5.0), (-1.5, 0.0)]  # scale, soft cap


def problem(
    shape: tuple[int, int, int], dtype: torch.dtype, options: tuple[float, float] = (1.0, 0.0)
) -> tuple[torch.Tensor, torch.Tensor, Head, torch.Tensor]:
    """Hidden states, targets, head and temperatures."""
    num_rows, num_tokens, width = shape
    return (
        random_matrix(num_rows, width, dtype),
        random_ids(num_tokens, num_rows),
        Head(random_matrix(num_tokens, width, dtype, seed=1), *options),
        torch.linspace(0.2, 1.2, num_rows),
    )


def by_loop(
    hidden: torch.Tensor, targets: torch.Tensor, head: Head, temperatures: torch.Tensor
) -> tuple[torch.Tensor, list[int]]:
    """One product, then one row at a time."""
    rows = all_products(hidden, head.weight, head.scale)
    if cap := head.soft_cap:
        rows = [[cap * math.tanh(x / cap) for x in row] for row in rows]
    every = zip(rows, targets.tolist(), temperatures.tolist(), strict=True)
    logprobs = [log_softmax(row, temperature)[target] for row, target, temperature in every]
    return torch.tensor(logprobs, dtype=torch.float64), [row.index(max(row)) for row in rows]


def by_autograd(
    hidden: torch.Tensor,
    targets: torch.Tensor,
    head: Head,
    temperatures: torch.Tensor,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities, and the gradient of their sum weighted 1, 2, 3 ..., in a type."""
    # Without the NaN around them: some products of odd width in 16 bits read beyond the edge (AMX).
    leaf = hidden.to(dtype).clone().requires_grad_()
    logits = leaf @ head.weight.to(dtype).clone().T * head.scale
    if head.soft_cap:
        logits = head.soft_cap * torch.tanh(logits / head.soft_cap)
    scaled = logits / temperatures.to(dtype)[:, None]
    logprobs = scaled.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    weights = torch.arange(1, len(hidden) + 1).to(dtype)
    (gradient,) = torch.autograd.grad((logprobs * weights).sum(), leaf)
    return logprobs.detach(), gradient


def with_gradient(
    hidden: torch.Tensor, targets: torch.Tensor, head: Head, temperatures: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities, argmax and that gradient, from the kernels."""
    leaf = hidden.clone().requires_grad_()
    logprobs, argmax = target_logprob(leaf, targets, head, temperatures, "triton")
    weights = torch.arange(1, len(hidden) + 1)
    (gradient,) = torch.autograd.grad((logprobs * weights).sum(), leaf)
    return logprobs.detach(), argmax, gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", HEADS)
def test_against_float64(
    shape: tuple[int, int, int], dtype: torch.dtype, options: tuple[float, float]
) -> None:
    given = problem(shape, dtype, options)
    logprobs, argmax, gradient = with_gradient(*given)
    assert (logprobs.dtype, argmax.dtype, gradient.dtype) == (torch.float32, torch.int64, dtype)
    expected, best = by_loop(*given)
    exact, exact_gradient = by_autograd(*given, torch.float64)
    assert distance(exact, expected) < 1e-6  # temperatures are float32
    assert argmax.tolist() == best
    near, near_gradient = by_autograd(*given, dtype)
    assert distance(logprobs, expected) <= 2 * distance(near, expected) + 1e-5
    size = float(exact_gradient.abs().max())
    allowance = 2 * distance(near_gradient, exact_gradient) + 1e-6 * size
    assert distance(gradient, exact_gradient) <= allowance


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    hidden, targets, head, temperatures = problem((130, 140, 8), dtype, (1.0, 5.0))
    logprobs, argmax, gradient = with_gradient(hidden, targets, head, temperatures)
    for rows in ([0], [129, 7, 128]):
        picked = (hidden[rows], targets[rows], head, temperatures[rows])
        leaf = picked[0].clone().requires_grad_()
        some, best = target_logprob(leaf, *picked[1:], "triton")
        (own,) = torch.autograd.grad((some * (torch.tensor(rows) + 1)).sum(), leaf)
        assert torch.equal(some, logprobs[rows])
        assert torch.equal(best, argmax[rows])
        assert torch.equal(own, gradient[rows])


@pytest.mark.parametrize("sizes", [(128, 1), (256, 2)])
def test_chunks_of_the_backward_pass(
    monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int]
) -> None:
    given = problem((3, 300, 16), torch.float32, (1.0, 3.0))
    *_, expected = with_gradient(*given)
    monkeypatch.setattr(backward, "CHUNK", sizes[0])
    monkeypatch.setattr(backward, "CHUNK_ROWS", sizes[1])
    *_, gradient = with_gradient(*given)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:All-NaN|invalid value:RuntimeWarning")
def test_a_row_that_is_not_finite_leaves_the_others_alone() -> None:
    hidden, targets, head, temperatures = problem((4, 300, 8), torch.float32)
    expected = with_gradient(hidden, targets, head, temperatures)
    hidden[2] = torch.nan
    logprobs, argmax, gradient = with_gradient(hidden, targets, head, temperatures)
    others = [0, 1, 3]
    assert logprobs[2].isnan()
    assert gradient[2].isnan().all()
    assert 0 <= int(argmax[2]) < 300
    for found, whole in zip((logprobs, argmax, gradient), expected, strict=True):
        assert torch.equal(found[others], whole[others])


@pytest.mark.filterwarnings("ignore:All-NaN|invalid value:RuntimeWarning")
@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_unknown_target_tells_a_row_that_is_not_finite(backend: str, value: float) -> None:
    hidden, targets, head, temperatures = problem((4, 300, 8), torch.float32)
    targets.fill_(-1)
    hidden[2, 3] = value
    logprobs, _ = target_logprob(hidden, targets, head, temperatures, backend)
    assert logprobs[2].isnan()
    assert (logprobs[[0, 1, 3]] == -torch.inf).all()


def test_no_log_probability_of_an_unknown_target() -> None:
    hidden, targets, head, temperatures = problem((3, 140, 8), torch.float32)
    expected, _, expected_gradient = with_gradient(hidden, targets, head, temperatures)
    targets[0], targets[2] = -1, 140
    logprobs, _, gradient = with_gradient(hidden, targets, head, temperatures)
    assert logprobs[[0, 2]].tolist() == [-math.inf, -math.inf]
    assert logprobs[1] == expected[1]
    assert (gradient[[0, 2]] == 0).all()
    assert torch.equal(gradient[1], expected_gradient[1])


def test_the_argmax_is_the_lowest_of_equals() -> None:
    weight = torch.tensor([1.0, 3.0, 3.0, 2.0]).repeat(300)[1:, None]
    hidden = torch.tensor([[1.0], [-1.0], [0.0]])
    _, argmax = target_logprob(hidden, torch.tensor([0, 0, 0]), Head(weight), backend="triton")
    assert argmax.tolist() == [0, 3, 0]


def test_large_logits_at_a_low_temperature() -> None:
    """The difference of two logits keeps its digits, however large both are."""
    hidden = torch.tensor([[1024.0]])
    weight = torch.tensor([[3.0], [3.0 - 2**-10], [-3.0]])  # logits of 3072, 3071 and -3072
    logprobs, argmax = target_logprob(hidden, torch.tensor([1]), Head(weight), 0.2, "triton")
    expected = log_softmax([3072.0, 3071.0, -3072.0], 0.2)[1]
    assert float(logprobs) == pytest.approx(expected, rel=1e-6)
    assert argmax.tolist() == [0]


@pytest.mark.filterwarnings("ignore:All-NaN|invalid value:RuntimeWarning")  # past the rows
def test_tokens_of_no_probability_may_come_first() -> None:
    weight = torch.ones(200, 1)
    weight[:130] = -torch.inf
    targets = torch.tensor([150, 3])
    logprobs, argmax = target_logprob(torch.ones(2, 1), targets, Head(weight), 0.5, "triton")
    assert logprobs.tolist() == pytest.approx([-math.log(70), -math.inf], rel=1e-6)
    assert argmax.tolist() == [130, 130]


def test_one_temperature_for_all_and_none_for_the_argmax() -> None:
    hidden, targets, head, _ = problem((3, 50, 8), torch.float32)
    one, best = target_logprob(hidden, targets, head, 0.7, "triton")
    same, _ = target_logprob(hidden, targets, head, torch.full((3,), 0.7), "triton")
    _, other = target_logprob(hidden, targets, head, 2.0, "triton")
    assert torch.equal(one, same)
    assert torch.equal(best, other)


@pytest.mark.usefixtures("float64_by_default")
def test_results_have_their_own_type() -> None:
    hidden, targets, head, temperatures = problem((2, 70, 8), torch.float32)
    logprobs, _, gradient = with_gradient(hidden, targets, head, temperatures)
    assert (logprobs.dtype, gradient.dtype) == (torch.float32, torch.float32)
    torch.set_default_dtype(torch.float32)
    expected, _, expected_gradient = with_gradient(hidden, targets, head, temperatures)
    assert torch.equal(logprobs, expected)
    assert torch.equal(gradient, expected_gradient)


def test_no_rows() -> None:
    _, _, head, _ = problem((1, 50, 8), torch.float32)
    leaf = torch.zeros(0, 8, requires_grad=True)
    logprobs, argmax = target_logprob(leaf, torch.arange(0), head, 1.0, "triton")
    assert (logprobs.shape, argmax.shape) == ((0,), (0,))
    (gradient,) = torch.autograd.grad(logprobs.sum(), leaf)
    assert gradient.shape == (0, 8)


def test_weights_lie_beyond_what_32_bits_count() -> None:
    torch.use_deterministic_algorithms(False)  # its pages are touched where rows lie, only there
    memory = torch.empty((1 << 31) + 64, dtype=torch.bfloat16)
    weight = memory.as_strided((3, 64), (1 << 30, 1))
    hidden, targets, head, temperatures = problem((2, 3, 64), torch.bfloat16)
    weight.copy_(head.weight)
    expected = with_gradient(hidden, targets, head, temperatures)
    found = with_gradient(hidden, targets, Head(weight), temperatures)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
