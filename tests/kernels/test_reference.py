"""The ops in plain torch, against sums and sorts in Python."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from greater_fast.kernels import reference
from greater_fast.kernels.reference import Head, candidate_scores, target_logprob, vocabulary_top_k
from tests.kernels.arithmetic import DTYPES, all_products, log_softmax, lowest


class LargestTensor(TorchDispatchMode):
    """Notes the most numbers that one tensor made meanwhile holds, views aside."""

    numel = 0

    def __torch_dispatch__(
        self, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            made = result if isinstance(result, tuple | list) else [result]
            sizes = [tensor.numel() for tensor in made if isinstance(tensor, torch.Tensor)]
            self.numel = max(self.numel, *sizes, 0)
        return result


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 70)),
    dtypes=st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)),
    scale=st.sampled_from([1.0, -0.5]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_scores_equal_a_float64_loop(
    shape: tuple[int, int, int],
    dtypes: tuple[torch.dtype, torch.dtype],
    scale: float,
    seed: int,
) -> None:
    """Operands of low precision are exact in float32, where the sum is made."""
    num_tokens, num_gradients, width = shape
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(num_tokens, width, generator=generator).to(dtypes[0])
    gradients = torch.randn(num_gradients, width, generator=generator).to(dtypes[1])
    ids = torch.randint(0, num_tokens, (5,), generator=generator)
    scores = candidate_scores(embeddings, gradients, ids, scale)
    assert scores.dtype == torch.float32
    expected = torch.tensor(all_products(gradients, embeddings, scale), dtype=torch.float64)
    torch.testing.assert_close(scores.double(), expected[:, ids], rtol=1e-5, atol=1e-6 * width)


@pytest.mark.parametrize("double", ["embeddings", "gradients"])
def test_float64_stays_float64(double: str) -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(3, 50, generator=generator)
    gradients = torch.randn(2, 50, generator=generator)
    if double == "embeddings":
        embeddings = embeddings.double() + 1e-9
    else:
        gradients = gradients.double() + 1e-9
    expected = torch.tensor(all_products(gradients, embeddings), dtype=torch.float64)
    scores = candidate_scores(embeddings, gradients, torch.arange(3))
    torch.testing.assert_close(scores, expected, rtol=1e-13, atol=1e-13)
    _, best = vocabulary_top_k(embeddings, gradients, torch.ones(3, dtype=torch.bool), 1)
    torch.testing.assert_close(best, expected.amin(1, keepdim=True), rtol=1e-13, atol=1e-13)


def test_low_precision_is_not_summed_in_low_precision() -> None:
    """257 ones: bfloat16 has no 257, and would stop at 256."""
    ones = torch.ones(1, 257, dtype=torch.bfloat16)
    assert candidate_scores(ones, ones, torch.tensor([0])).item() == 257.0


def test_no_candidates() -> None:
    scores = candidate_scores(torch.zeros(3, 4), torch.zeros(2, 4), torch.arange(0))
    assert scores.shape == (2, 0)


@given(
    levels=st.lists(st.lists(st.integers(-2, 2), min_size=2, max_size=2), min_size=1, max_size=40),
    gradients=st.lists(st.lists(st.integers(-2, 2), min_size=2, max_size=2), max_size=3),
    mask=st.lists(st.booleans(), min_size=40, max_size=40),
    k=st.integers(1, 12),
    chunk=st.integers(1, 50),
)
@settings(max_examples=150, deadline=None)
def test_the_lowest_of_the_vocabulary_by_sorting(
    levels: list[list[int]], gradients: list[list[int]], mask: list[bool], k: int, chunk: int
) -> None:
    """Few levels, so that there are ties; chunks of one token, of some, of all."""
    embeddings = torch.tensor(levels, dtype=torch.float32)
    allowed = mask[: len(levels)]
    rows = torch.tensor(gradients, dtype=torch.float32).reshape(-1, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "SCORE_FLOATS", chunk)
        ids, scores = vocabulary_top_k(embeddings, rows, torch.tensor(allowed), k, 2.0)
    expected = all_products(rows, embeddings, 2.0)
    assert ids.tolist() == [lowest(row, allowed, k) for row in expected]
    values = [[math.inf if i < 0 else row[i] for i in lowest(row, allowed, k)] for row in expected]
    assert scores.tolist() == values


def test_the_vocabulary_is_scored_in_little_memory() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(20_000, 32, generator=generator)
    gradients = torch.randn(64, 32, generator=generator)
    with LargestTensor() as largest:
        vocabulary_top_k(embeddings, gradients, torch.ones(20_000, dtype=torch.bool), 16)
    assert 0 < largest.numel <= 64 * 20_000 / 20


def test_many_candidates_are_scored_in_little_memory() -> None:
    """As those of several models are: all tokens that are allowed."""
    embeddings = torch.randn(9000, 512, generator=torch.Generator().manual_seed(0))
    gradients, ids = torch.randn(2, 512), torch.arange(8999, -1, -2)
    with LargestTensor() as largest:
        scores = candidate_scores(embeddings, gradients, ids)
    assert largest.numel <= reference.EMBEDDING_FLOATS < ids.numel() * 512
    torch.testing.assert_close(scores, gradients @ embeddings[ids].T)


@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES])
@pytest.mark.parametrize(("scale", "cap"), [(1.0, 0.0), (0.5, 3.0)])
@pytest.mark.parametrize("rows_at_a_time", [1, 2, 9])
def test_log_probabilities_equal_a_loop(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    scale: float,
    cap: float,
    rows_at_a_time: int,
) -> None:
    monkeypatch.setattr(reference, "LOGIT_FLOATS", 31 * rows_at_a_time)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 6, generator=generator).to(dtype).requires_grad_()
    head = Head(torch.randn(31, 6, generator=generator).to(dtype), scale, cap)
    targets, temperatures = [3, 30, -1, 0, 31], [1.0, 0.25, 1.0, 2.0, 1.0]
    logprobs, argmax = target_logprob(
        hidden, torch.tensor(targets), head, torch.tensor(temperatures)
    )
    logits = all_products(hidden.detach(), head.weight, scale)
    logits = [[cap * math.tanh(x / cap) for x in row] if cap else row for row in logits]
    assert argmax.tolist() == [row.index(max(row)) for row in logits]
    expected = [
        log_softmax(row, temperature)[target] if 0 <= target < 31 else -math.inf
        for row, target, temperature in zip(logits, targets, temperatures, strict=True)
    ]
    tight = dtype == torch.float64
    assert logprobs.dtype == (torch.float64 if tight else torch.float32)
    assert logprobs.tolist() == pytest.approx(expected, rel=1e-12 if tight else 1e-5)
    known = torch.tensor([0, 1, 3])
    (gradient,) = torch.autograd.grad(logprobs[known].sum(), hidden)
    whole = hidden.detach().double().requires_grad_()
    products = whole @ head.weight.double().T * scale
    capped = cap * torch.tanh(products / cap) if cap else products
    powers = (capped / torch.tensor(temperatures)[:, None]).log_softmax(-1)
    (exact,) = torch.autograd.grad(powers[known, torch.tensor(targets)[known]].sum(), whole)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 1e-2)
    torch.testing.assert_close(gradient.double(), exact, rtol=tolerance, atol=tolerance)


def test_logits_exist_for_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And none is kept for the backward pass, which makes them again."""
    kept: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    monkeypatch.setattr(reference, "LOGIT_FLOATS", 4_000)
    hidden = torch.randn(50, 8, requires_grad=True)
    head = Head(torch.randn(1000, 8))
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with LargestTensor() as largest:
        with hooks:
            logprobs, _ = target_logprob(hidden, torch.arange(50), head, torch.ones(50))
        torch.autograd.grad(logprobs.sum(), hidden)
    assert largest.numel <= 8_000
    assert sum(kept) < 50_000
