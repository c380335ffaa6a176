"""RMS norms and the adds before them, against sums of products in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from greater_fast.kernels.layers.rms_norm import Norm, add_norms, rms_norm
from tests.kernels.arithmetic import DTYPES, distance, random_matrix

pytestmark = pytest.mark.usefixtures("gpu_if_any")
SHAPES = [(1, 1), (3, 5), (5, 64), (9, 80), (2, 576), (3, 1000)]
FORMS = [(0.0, True), (0.0, False), (1.0, False)]  # Llama's, OLMo 2's, Gemma's

Given = dict[str, torch.Tensor]


def norm_of(width: int, dtype: torch.dtype, seed: int, form: tuple[float, bool]) -> Norm:
    weights = random_matrix(1, width, dtype, seed)[0].contiguous()
    return Norm(weights, 1e-3 * seed, *form)


def oracle(x: torch.Tensor, norm: Norm) -> torch.Tensor:
    mean = (x * x).sum(-1, keepdim=True) / x.shape[-1]
    return x / (mean + norm.epsilon).sqrt() * (norm.weights.to(x.dtype) + norm.offset)


def add_oracle(
    x: torch.Tensor, residual: torch.Tensor, first: Norm | None, second: Norm | None
) -> tuple[torch.Tensor, torch.Tensor]:
    sums = residual + (oracle(x, first) if first else x)
    return sums, oracle(sums, second) if second else sums


def check(found: torch.Tensor, run: Callable[[Any], torch.Tensor], dtype: torch.dtype) -> None:
    """At most twice as far from float64 as torch in float32, with the result rounded to `dtype`."""
    exact = run(torch.float64)
    own = run(torch.float32).to(dtype)
    assert found.dtype == dtype
    assert distance(found, exact) <= 2 * distance(own, exact) + 1e-6 * float(exact.abs().max())


def random_rows(num_rows: int, width: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Of very different lengths."""
    return random_matrix(num_rows, width, dtype, seed).mul_(
        torch.logspace(-2, 2, num_rows, dtype=torch.float64).to(dtype)[:, None]
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_norm(dtype: torch.dtype, shape: tuple[int, int], form: tuple[float, bool]) -> None:
    x, norm = random_rows(*shape, dtype, 1), norm_of(shape[1], dtype, 2, form)

    def run(kind: torch.dtype) -> torch.Tensor:
        if kind == torch.float32 and norm.rounds:  # as Llama's own module does it
            unit = oracle(x.to(kind), norm._replace(weights=torch.ones_like(norm.weights)))
            return (unit.to(dtype) * norm.weights).to(kind)
        return oracle(x.to(kind), norm)

    check(rms_norm(x, norm), run, dtype)


@pytest.mark.parametrize("rounds", [True, False])
def test_rows_are_rounded_where_the_module_rounds_them(rounds: bool) -> None:
    """In bfloat16, but for a sum in another order the bits of Llama's norm, or of OLMo 2's."""
    x = random_rows(9, 80, torch.bfloat16, 1)
    norm = norm_of(80, torch.bfloat16, 2, (0.0, rounds))
    wide = x.float()
    unit = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + norm.epsilon)
    own = norm.weights * (unit.to(x.dtype) if rounds else unit)
    assert (rms_norm(x, norm) != own.to(x.dtype)).float().mean() < 0.01


ADDS = [(True, True), (False, True), (True, False), (False, False)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(5, 64), (3, 80)], ids=str)
@pytest.mark.parametrize("which", ADDS, ids=str)
def test_adds(dtype: torch.dtype, shape: tuple[int, int], which: tuple[bool, bool]) -> None:
    x, residual = (random_rows(*shape, dtype, seed) for seed in (1, 2))
    norms = [
        norm_of(shape[1], dtype, seed, (1.0, False)) if there else None
        for seed, there in zip((3, 4), which, strict=True)
    ]
    sums, normed = add_norms(x, residual, *norms)
    check(sums, lambda kind: add_oracle(x.to(kind), residual.to(kind), *norms)[0], dtype)
    if norms[1] is None:
        assert normed is None
        return
    assert normed is not None
    # Of the sums as they are stored, as one module after another would take them.
    second = norms[1]
    check(normed, lambda kind: oracle(sums.to(kind), second), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradient_of_a_norm(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    x, norm = random_rows(*shape, dtype, 1), norm_of(shape[1], dtype, 2, (0.0, True))
    given = random_matrix(*shape, dtype, 3)

    def run(kind: torch.dtype) -> torch.Tensor:
        leaf = x.to(kind).requires_grad_()
        (found,) = torch.autograd.grad(oracle(leaf, norm), leaf, given.to(kind))
        return found

    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(rms_norm(leaf, norm), leaf, given)
    check(found, run, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("which", ADDS, ids=str)
def test_gradients_of_adds(dtype: torch.dtype, which: tuple[bool, bool]) -> None:
    """By both inputs, where the sums and the normed rows are read, and by one of them alone."""
    width = 80
    x, residual = (random_rows(4, width, dtype, seed) for seed in (1, 2))
    norms = [
        norm_of(width, dtype, seed, (1.0, False)) if there else None
        for seed, there in zip((3, 4), which, strict=True)
    ]
    given = [random_matrix(4, width, dtype, seed) for seed in (5, 6)]
    if dtype != torch.float32:  # of numbers that have the sums' own bits
        x, residual = (torch.randint_like(tensor, -3, 4) for tensor in (x, residual))

    def gradients(adds: Any, kind: torch.dtype, read: list[int]) -> list[torch.Tensor]:
        leaves = [tensor.to(kind).requires_grad_() for tensor in (x, residual)]
        outputs = adds(*leaves, *norms)
        return list(
            torch.autograd.grad(
                [outputs[i] for i in read], leaves, [given[i].to(kind) for i in read]
            )
        )

    for read in ([0, 1], [1], [0]) if which[1] else ([0],):
        found = gradients(add_norms, dtype, read)
        for place in (0, 1):
            check(
                found[place],
                lambda kind, at=place, read=read: gradients(add_oracle, kind, read)[at],
                dtype,
            )


def test_a_gradient_goes_to_what_asks_for_one() -> None:
    norm = norm_of(8, torch.float32, 1, (0.0, True))
    x, residual = torch.randn(3, 8), torch.randn(3, 8).requires_grad_()
    sums, normed = add_norms(x, residual, None, norm)
    assert normed is not None
    (sums.sum() + normed.sum()).backward()
    assert x.grad is None
    assert residual.grad is not None
    with torch.no_grad():
        assert not add_norms(x, residual, None, norm)[0].requires_grad


@pytest.mark.parametrize("width", [5, 64, 576])
def test_a_row_has_its_own_bits(width: int) -> None:
    """Wherever it is, and however many there are."""
    x, residual = torch.randn(2, 19, width)
    norm = norm_of(width, torch.float32, 1, (0.0, True))
    whole = add_norms(x, residual, norm, norm)
    for rows in (slice(7, 8), slice(3, 12)):
        part = add_norms(x[rows], residual[rows], norm, norm)
        for found, expected in zip(part, whole, strict=True):
            assert found is not None
            assert expected is not None
            assert torch.equal(found, expected[rows])


def test_nothing_but_inputs_is_kept() -> None:
    """A norm keeps its input; an add in front of it the sum, which the next layer reads as well."""
    norm = norm_of(64, torch.bfloat16, 1, (0.0, True))
    x, residual = (torch.randn(6, 64).to(torch.bfloat16).requires_grad_() for _ in range(2))
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        rms_norm(x, norm)
        sums, _ = add_norms(x, residual, None, norm)
    assert [tensor.data_ptr() for tensor in kept] == [x.data_ptr(), sums.data_ptr()]


def test_no_rows_are_no_rows() -> None:
    norm = norm_of(64, torch.float32, 1, (0.0, True))
    assert rms_norm(torch.zeros(0, 64), norm).shape == (0, 64)


def test_wrong_arguments() -> None:
    norm = norm_of(8, torch.float32, 1, (0.0, True))
    x = torch.zeros(3, 8)
    wrong: list[tuple[Any, str]] = [
        ((x[0], x, None, norm), "x: got torch.float32"),
        ((x.double(), x, None, norm), "x: got torch.float64"),
        ((torch.zeros(3, 0), x, None, norm), "x: got"),
        ((torch.zeros(1, (1 << 14) + 1), x, None, norm), "from 1 to 16384"),
        ((torch.zeros(8, 3).T, x, None, norm), "x: got"),
        ((x, x[1:], None, norm), "residual: got"),
        ((x, x, norm, norm._replace(weights=x[0].half())), "weights of the second norm: got"),
        ((x, x, norm._replace(weights=x[0, 1:]), None), "weights of the first norm: got"),
        ((x, x.to("meta"), None, norm), "got tensors on"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            add_norms(*arguments)
