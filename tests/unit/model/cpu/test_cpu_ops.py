"""Norms, gates, turns and logits of csrc against float64 formulas, on every instruction set."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from greater_fast.model.cpu.extension import (
    gate_backward,
    gated_mlp,
    read_logits,
    rms_norm,
    rms_norm_backward,
    turn_back,
    turned_linears,
)

pytestmark = pytest.mark.usefixtures("every_vector_size")
TYPES = [np.float32, np.float64]
SHAPES = [(1, 1), (3, 2), (5, 16), (7, 37), (2, 576), (70, 515)]
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": torch.nn.functional.silu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}


def draw(seed: int, *shape: int, dtype: Any, scale: float = 1.0) -> NDArray[Any]:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def nothing(*shape: int, dtype: Any) -> NDArray[Any]:
    return np.full(shape, np.nan, dtype)


def exact(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64)).requires_grad_()


def assert_near(found: NDArray[Any], expected: torch.Tensor, units: int = 64) -> None:
    """Within some units in the last place of the largest number of the row."""
    wanted = expected.detach().numpy()
    allowed = units * np.finfo(found.dtype).eps * np.abs(wanted).max(-1, keepdims=True)
    assert (np.abs(found - wanted) <= allowed + 1e-30).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_a_norm_and_its_gradient(rows: int, width: int, offset: float, dtype: Any) -> None:
    inputs, by_outputs = draw(0, rows, width, dtype=dtype), draw(1, rows, width, dtype=dtype)
    weights, outputs = draw(2, width, dtype=dtype), nothing(rows, width, dtype=dtype)
    rms_norm(inputs, weights, outputs, 1e-3, offset)
    x = exact(inputs)
    y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3) * (offset + exact(weights))
    assert_near(outputs, y)
    by_inputs = nothing(rows, width, dtype=dtype)
    rms_norm_backward(inputs, weights, (by_outputs, by_inputs), 1e-3, offset)
    (expected,) = torch.autograd.grad(y, x, exact(by_outputs))
    scale = exact(by_outputs).abs().amax(-1, keepdim=True) + expected.abs()  # terms may cancel
    allowed = 256 * np.finfo(dtype).eps * (offset + np.abs(weights).max()) * scale / 0.03
    assert (torch.from_numpy(by_inputs) - expected).abs().le(allowed).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("rows", "width", "hidden"), [(1, 1, 1), (5, 16, 37), (13, 33, 130)])
@pytest.mark.parametrize("shares_memory", [False, True])
def test_a_gated_mlp(
    rows: int, width: int, hidden: int, shares_memory: bool, activation: str, dtype: Any
) -> None:
    inputs, outputs = draw(0, rows, width, dtype=dtype), nothing(rows, width, dtype=dtype)
    shapes = (hidden, width), (hidden, width), (width, hidden)
    weights = [draw(i, *shape, dtype=dtype) for i, shape in enumerate(shapes)]
    bias = draw(7, hidden, dtype=dtype)
    gate, up, other = (nothing(rows, hidden, dtype=dtype) for _ in range(3))
    parameters = [(weights[0], bias), (weights[1], None), (weights[2], None)]
    states = [gate, up, gate if shares_memory else other]
    gated_mlp(inputs, parameters, states, outputs, activation)
    g, u = exact(inputs) @ exact(weights[0]).T + exact(bias), exact(inputs) @ exact(weights[1]).T
    states_of = ACTIVATIONS[activation](g) * u
    scale = states_of.abs() @ exact(weights[2]).T.abs() + 1
    distance = (torch.from_numpy(outputs) - states_of @ exact(weights[2]).T).abs()
    assert distance.le(64 * np.sqrt(width) * np.finfo(dtype).eps * scale).all()
    if not shares_memory:
        assert_near(gate, g)
        assert_near(up, u)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_a_gates_gradient(rows: int, width: int, activation: str, dtype: Any) -> None:
    gate, up = draw(0, rows, width, dtype=dtype, scale=4), draw(1, rows, width, dtype=dtype)
    gate.flat[:1] = -100  # far out, where nothing may overflow
    by_hidden, by_gate = draw(2, rows, width, dtype=dtype), nothing(rows, width, dtype=dtype)
    g, u = exact(gate), exact(up)
    states = ACTIVATIONS[activation](g) * u
    by_g, by_u = torch.autograd.grad(states, (g, u), exact(by_hidden))
    gate_backward(gate, up, by_hidden, by_gate, activation)
    scale = 1 + np.abs(up).max()
    assert np.allclose(by_gate, by_g, rtol=0, atol=64 * np.finfo(dtype).eps * scale * 8)
    assert np.allclose(by_hidden, by_u, rtol=0, atol=64 * np.finfo(dtype).eps * 16)


def turned(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Of states [M, heads, D]."""
    first, second = states.chunk(2, dim=-1)
    return states * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "size", "heads"), [(1, 2, 1), (3, 6, 2), (7, 64, 3), (5, 80, 2)])
def test_heads_are_turned_and_turned_back(rows: int, size: int, heads: int, dtype: Any) -> None:
    width = 19
    inputs = draw(0, rows, width, dtype=dtype)
    cos, sin = draw(1, rows, size, dtype=dtype), draw(2, rows, size, dtype=dtype)
    counts = heads, 1, 1
    weights = [draw(3 + i, n * size, width, dtype=dtype) for i, n in enumerate(counts)]
    bias = draw(9, heads * size, dtype=dtype)
    outputs = [nothing(rows, n * size, dtype=dtype) for n in counts]
    layers = list(zip(weights, (bias, None, None), outputs, strict=True))
    turned_linears(inputs, layers, 2, (cos, sin))
    states = [exact(inputs) @ exact(w).T for w in weights]
    states[0] = states[0] + exact(bias)
    for number, (found, own) in enumerate(zip(outputs, states, strict=True)):
        own = own.view(rows, -1, size)
        own = turned(own, exact(cos), exact(sin)) if number < 2 else own
        assert_near(found, own.flatten(1), units=512)

    given = [draw(20 + n, rows, n * size, dtype=dtype) for n in (heads, 1)]
    back = [nothing(*array.shape, dtype=dtype) for array in given]
    turn_back(list(zip(given, back, strict=True)), (cos, sin))
    for gradient, found in zip(given, back, strict=True):
        x = exact(gradient).detach().view(rows, -1, size).requires_grad_()
        by = exact(gradient).view(rows, -1, size)
        (expected,) = torch.autograd.grad(turned(x, exact(cos), exact(sin)), x, by)
        assert_near(found, expected.flatten(1))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "ids"), [(1, 1), (4, 31), (3, 33), (5, 2050)])
def test_what_is_read_from_logits(rows: int, ids: int, dtype: Any) -> None:
    logits = draw(0, rows, ids, dtype=dtype, scale=9)
    targets = np.array([(7 * i) % ids for i in range(rows)], np.int32)
    targets[rows // 2] = -1
    temperatures = np.linspace(0.2, 1, rows).astype(dtype)
    argmax, logprobs = nothing_read(rows)
    read_logits(logits, targets, temperatures, argmax, logprobs)
    assert (argmax == logits.argmax(-1)).all()
    scaled = exact(logits) / exact(temperatures)[:, None]
    expected = scaled.log_softmax(-1)[torch.arange(rows), torch.from_numpy(targets).long()]
    known = targets >= 0
    assert np.allclose(logprobs[known], expected.detach()[known], rtol=2e-6, atol=2e-6)
    assert (logprobs[~known] == 0).all()


def nothing_read(rows: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    return np.full(rows, -9, np.int32), nothing(rows, dtype=np.float32)


def test_the_first_of_equals_is_the_highest_and_nan_is_higher_still() -> None:
    logits = np.zeros((4, 100), np.float32)
    logits[0, [40, 77]] = 3
    logits[1, [41, 8]] = 5, np.nan
    logits[2] = -np.inf
    logits[3, 99] = np.inf
    argmax, logprobs = nothing_read(4)
    read_logits(logits, np.full(4, 5, np.int32), np.ones(4, np.float32), argmax, logprobs)
    assert argmax.tolist() == [40, 8, 0, 99]
    assert np.isnan(logprobs[1:3]).all()
    logits[0, 3] = -np.inf
    read_logits(logits, np.full(4, -1, np.int32), np.ones(4, np.float32), argmax, logprobs)
    assert logprobs[0] == 0
    assert np.isnan(logprobs[1:]).all()  # no token can be written


@pytest.mark.parametrize("dtype", TYPES)
def test_a_row_has_the_same_bits_in_any_batch(dtype: Any) -> None:
    rows, width, hidden = 9, 50, 130
    inputs = draw(0, rows, width, dtype=dtype)
    weights = [draw(i, n, width, dtype=dtype) for i, n in enumerate((hidden, hidden, width))]
    down = draw(5, width, hidden, dtype=dtype)
    cos, sin = draw(6, rows, 10, dtype=dtype), draw(7, rows, 10, dtype=dtype)
    targets = np.zeros(rows, np.int32)

    def all_of(part: slice) -> list[NDArray[Any]]:
        x = inputs[part].copy()
        normed, outputs = nothing(*x.shape, dtype=dtype), nothing(*x.shape, dtype=dtype)
        rms_norm(x, weights[0][0], normed, 1e-5, 0.0)
        gate, up = (nothing(len(x), hidden, dtype=dtype) for _ in range(2))
        layers = [(weights[0], None), (weights[1], None), (down, None)]
        gated_mlp(x, layers, [gate, up, gate], outputs, "silu")
        states = nothing(len(x), hidden, dtype=dtype)
        turned_linears(x, [(weights[0], None, states)], 1, (cos[part].copy(), sin[part].copy()))
        argmax, logprobs = nothing_read(len(x))
        temperatures = np.full(len(x), 0.2, dtype)
        read_logits(x, targets[part].copy(), temperatures, argmax, logprobs)
        return [normed, outputs, states, argmax, logprobs]

    whole = all_of(slice(0, rows))
    for part in (slice(0, 1), slice(8, 9), slice(2, 7)):
        for found, expected in zip(all_of(part), whole, strict=True):
            assert (found == expected[part]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: rms_norm(x, x[0, :2].copy(), x.copy(), 1e-5, 0.0), "weights: expected shape"),
        (lambda x: rms_norm(x, x[0].astype(np.float64), x.copy(), 1e-5, 0.0), "weights: got dtype"),
        (lambda x: gate_backward(x, x, x.copy(), x.copy(), "relu"), "activation: got relu"),
        (lambda x: gated_mlp(x, [(x, None)], [x], x, "silu"), "expected gate, up and down"),
        (lambda x: turned_linears(x, [(x, None, x[:, :3].copy())], 1, (x, x)), "whole heads"),
        (lambda x: turn_back([(x, x.copy())], (x[:, :3].copy(), x)), "an even D"),
        (lambda x: read_logits(x, *targets_of(9, x), *nothing_read(3)), "targets: no such column"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(np.ones((3, 4), np.float32))


def targets_of(target: int, logits: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    return np.full(len(logits), target, np.int32), np.ones(len(logits), logits.dtype)
