"""Attention over a packed row, by csrc, against plain torch and its autograd in float64."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from greater_fast.model.cpu.extension import packed_attention, packed_attention_backward

BLOCK = 16


@dataclass(frozen=True)
class Case:
    """Lengths of segments and of their prefixes, heads, and what a layer asks for."""

    lengths: Sequence[int]
    prefixes: Sequence[int]
    heads: tuple[int, int] = (4, 2)
    size: int = 16
    soft_cap: float = 0.0
    window: int = 0

    @property
    def starts(self) -> list[int]:
        return [sum(self.lengths[:i]) for i in range(len(self.lengths))]

    @property
    def options(self) -> tuple[float, float, int]:
        return self.size**-0.5, self.soft_cap, self.window


CASES = [
    Case([1], [0]),
    Case([5, 1, 60], [3, 0, 20]),
    Case([100], [33], heads=(9, 3), size=64),
    Case([70, 49], [0, 100], heads=(4, 1), size=20, soft_cap=5.0),
    Case([130, 0, 7], [17, 4, 40], heads=(3, 3), size=5, window=9),
    Case([48, 96], [1, 16], heads=(2, 2), size=33, soft_cap=3.0, window=50),
]


def states_of(case: Case, seed: int = 0) -> list[torch.Tensor]:
    """Queries, keys, values and a gradient of the outputs, in float64."""
    source = torch.Generator().manual_seed(seed)
    heads = case.heads[0], case.heads[1], case.heads[1], case.heads[0]
    rows = sum(case.lengths)
    return [torch.randn(rows, n, case.size, generator=source, dtype=torch.float64) for n in heads]


def pool_of(case: Case) -> tuple[torch.Tensor, list[list[int]]]:
    """Keys and values [2, blocks, KV, S, D], NaN where no prefix is, and the prefixes' blocks."""
    source = torch.Generator().manual_seed(1)
    counts = [-(-length // BLOCK) for length in case.prefixes]
    order = torch.randperm(sum(counts) + 2, generator=source).tolist()
    shape = (2, len(order), case.heads[1], BLOCK, case.size)
    pool = torch.full(shape, torch.nan, dtype=torch.float64)
    ids = [[order.pop() for _ in range(count)] for count in counts]
    for length, own in zip(case.prefixes, ids, strict=True):
        for place in range(length):
            state = torch.randn(2, case.heads[1], case.size, generator=source, dtype=torch.float64)
            pool[:, own[place // BLOCK], :, place % BLOCK] = state
    return pool, ids


def expected(case: Case, states: Sequence[torch.Tensor]) -> torch.Tensor:
    """Attention by its formula, one token and one head at a time."""
    queries, keys, values = states
    pool, ids = pool_of(case)
    scale, cap, window = case.options
    outputs = []
    for start, length, prefix, own in zip(
        case.starts, case.lengths, case.prefixes, ids, strict=True
    ):
        before = [pool[:, own[i // BLOCK], :, i % BLOCK] for i in range(prefix)]
        for row in range(length):
            seen = torch.stack((keys, values))[:, start : start + row + 1]  # [2, n, KV, D]
            if before:
                seen = torch.cat((torch.stack(before, 1), seen), 1)
            seen = seen[:, -window:] if window else seen
            for head in range(case.heads[0]):
                own_keys, own_values = seen[:, :, head * case.heads[1] // case.heads[0]]
                scores = own_keys @ queries[start + row, head] * scale
                scores = cap * torch.tanh(scores / cap) if cap else scores
                outputs.append(scores.softmax(0) @ own_values)
    return torch.stack(outputs).view(queries.shape)


def prefixes_of(case: Case, dtype: torch.dtype) -> list[Any]:
    pool, ids = pool_of(case)
    keys, values = pool.to(dtype).numpy()
    return [
        (keys, values, own, length) if length else None
        for own, length in zip(ids, case.prefixes, strict=True)
    ]


@pytest.mark.usefixtures("every_vector_size")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_equal_those_of_the_formula(case: Case, dtype: torch.dtype) -> None:
    *states, factors = states_of(case)
    leaves = [state.requires_grad_() for state in states]
    outputs = expected(case, leaves)
    gradients = torch.autograd.grad(outputs, leaves, factors)
    arrays = tuple(state.detach().to(dtype).numpy() for state in states)
    prefixes = prefixes_of(case, dtype)
    found = np.full_like(arrays[0], np.nan)
    packed_attention(arrays, case.starts, prefixes, found, case.options)
    by_states = tuple(np.full_like(array, np.nan) for array in arrays)
    by_outputs = factors.to(dtype).numpy()
    packed_attention_backward(arrays, case.starts, prefixes, by_outputs, by_states, case.options)
    exact = [tensor.detach().numpy() for tensor in (outputs, *gradients)]
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    for ours, theirs in zip((found, *by_states), exact, strict=True):
        assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.usefixtures("every_vector_size")
@pytest.mark.parametrize("case", [CASES[1], CASES[4], CASES[5]])
def test_a_segment_has_the_same_bits_beside_others(case: Case) -> None:
    *arrays, factors = (state.float().numpy() for state in states_of(case))
    prefixes = prefixes_of(case, torch.float32)

    def run(rows: slice, starts: list[int], own: list[Any]) -> list[NDArray[np.float32]]:
        states = tuple(array[rows].copy() for array in arrays)
        outputs, *gradients = (np.empty_like(array) for array in (states[0], *states))
        packed_attention(states, starts, own, outputs, case.options)
        packed_attention_backward(
            states, starts, own, factors[rows].copy(), tuple(gradients), case.options
        )
        return [outputs, *gradients]

    whole = run(slice(None), case.starts, prefixes)
    for start, length, prefix in zip(case.starts, case.lengths, prefixes, strict=True):
        rows = slice(start, start + length)
        for alone, together in zip(run(rows, [0], [prefix]), whole, strict=True):
            assert (alone == together[rows]).all()


def arguments() -> dict[str, Any]:
    def zeros(*shape: int) -> NDArray[np.float32]:
        return np.zeros(shape, np.float32)

    return {
        "states": (zeros(3, 4, 8), zeros(3, 2, 8), zeros(3, 2, 8)),
        "starts": [0],
        "prefixes": [(zeros(5, 2, 16, 8), zeros(5, 2, 16, 8), [4], 7)],
        "outputs": zeros(3, 4, 8),
        "options": (1.0, 0.0, 0),
    }


def states_with(number: int, array: NDArray[Any]) -> dict[str, Any]:
    states = list(arguments()["states"])
    states[number] = array
    return {"states": tuple(states)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (states_with(0, np.zeros((3, 4), np.float32)), r"queries \[M, H, D\]"),
        (states_with(1, np.zeros((3, 2, 8))), "keys: got dtype float64"),
        (states_with(2, np.zeros((2, 2, 8), np.float32)), "values: expected shape"),
        (
            {"states": (np.zeros((3, 4, 8), np.float32), *(np.zeros((3, 3, 8), np.float32),) * 2)},
            "do not divide",
        ),
        ({"starts": [4]}, "starts: expected to rise"),
        ({"starts": [-1]}, "starts: expected to rise"),
        ({"starts": [1]}, "starts: expected 0 for the first"),
        ({"starts": [], "prefixes": []}, "starts: expected 0 for the first"),
        ({"states": (np.zeros((3, 4, 0), np.float32),) * 3}, "heads of 1 at least"),
        ({"starts": []}, "starts: expected one for each prefix"),
        ({"prefixes": [(*arguments()["prefixes"][0][:2], [5], 7)]}, "no such block"),
        ({"prefixes": [(*arguments()["prefixes"][0][:2], [4], 17)]}, "more tokens than"),
        (
            {"prefixes": [(np.zeros((5, 2, 16, 8)), *arguments()["prefixes"][0][1:])]},
            "prefixes' keys: got dtype float64",
        ),
        (
            {"prefixes": [(np.zeros((5, 3, 16, 8), np.float32),) * 2 + ([4], 7)]},
            "prefixes' keys: expected shape",
        ),
        ({"prefixes": [([[[[1.0]]]], *arguments()["prefixes"][0][1:])]}, "keys: expected an array"),
        (states_with(0, np.zeros((3, 0, 8), np.float32)), "do not divide"),
        ({"outputs": np.zeros((3, 2, 8), np.float32)}, "outputs: expected shape"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    packed_attention(**arguments())
    with pytest.raises(ValueError, match=message):
        packed_attention(**arguments() | change)
