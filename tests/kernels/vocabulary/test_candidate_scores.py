"""The Triton kernels of scores against sums made one product at a time."""

import math

import pytest
import torch

from greater_fast.kernels.dispatch import candidate_scores, vocabulary_top_k
from greater_fast.kernels.vocabulary import candidate_scores as kernels
from tests.kernels.arithmetic import (
    DTYPES,
    all_products,
    distance,
    lowest,
    random_ids,
    random_matrix,
)

pytestmark = pytest.mark.usefixtures("gpu_if_any")
SHAPES = [(1, 1, 1), (1, 300, 33), (3, 129, 64), (17, 257, 7), (65, 129, 9)]  # G, V, D


def at_that_precision(embeddings: torch.Tensor, gradients: torch.Tensor, scale: float) -> float:
    """The error that torch makes in the type of the embeddings."""
    found = gradients.to(embeddings.dtype) @ embeddings.T * scale
    return distance(found, torch.tensor(all_products(gradients, embeddings, scale)).double())


def chosen(
    embeddings: torch.Tensor, gradients: torch.Tensor, allowed: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    return vocabulary_top_k(embeddings, gradients, allowed, k, backend="triton")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_scores_of_a_list(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    num_rows, num_tokens, width = shape
    embeddings = random_matrix(num_tokens, width, dtype)
    gradients = random_matrix(num_rows, width, torch.float32, seed=1)
    expected = torch.tensor(all_products(gradients, embeddings, 1.5), dtype=torch.float64)
    allowance = 2 * at_that_precision(embeddings, gradients, 1.5) + 1e-6
    for num_ids in (1, 37):
        ids = random_ids(num_tokens, num_ids)
        found = candidate_scores(embeddings, gradients, ids, 1.5, "triton")
        assert (found.shape, found.dtype) == ((num_rows, num_ids), torch.float32)
        assert distance(found, expected[:, ids]) <= allowance


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_lowest_of_the_vocabulary(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    num_rows, num_tokens, width = shape
    embeddings = random_matrix(num_tokens, width, dtype)
    gradients = random_matrix(num_rows, width, torch.float32, seed=1)
    allowed = torch.arange(num_tokens) % 3 != 1
    embeddings[~allowed] = torch.nan
    k = min(4, num_tokens)
    ids, scores = vocabulary_top_k(embeddings, gradients, allowed, k, -2.0, "triton")
    known = embeddings.nan_to_num()
    expected = all_products(gradients, known, -2.0)
    assert ids.tolist() == [lowest(row, allowed.tolist(), k) for row in expected]
    values = torch.tensor(expected, dtype=torch.float64).gather(1, ids)
    assert distance(scores, values) <= 2 * at_that_precision(known, gradients, -2.0) + 1e-6


@pytest.mark.parametrize("k", [1, 3, 64])
@pytest.mark.parametrize("num_allowed", [0, 1, 2, 70])
def test_fewer_are_allowed_than_asked_for(k: int, num_allowed: int) -> None:
    embeddings, gradients = (random_matrix(300, 8, torch.bfloat16, seed) for seed in (0, 1))
    gradients = gradients[:2]
    allowed = torch.zeros(300, dtype=torch.bool)
    allowed[torch.arange(num_allowed) * 211 % 300] = True
    ids, scores = chosen(embeddings, gradients, allowed, k)
    expected = all_products(gradients, embeddings)
    assert ids.tolist() == [lowest(row, allowed.tolist(), k) for row in expected]
    assert torch.equal(scores.isinf(), ids < 0)
    assert not scores.isnan().any()


def test_ties_go_to_the_lower_id() -> None:
    levels = torch.tensor([2.0, -1.0, 3.0, -1.0, 0.0])
    embeddings = levels.repeat(80)[:397, None].to(torch.bfloat16)
    gradients = torch.tensor([[1.0], [0.0], [-1.0]])
    allowed = torch.ones(397, dtype=torch.bool)
    allowed[1] = False
    ids, _ = chosen(embeddings, gradients, allowed, 7)
    assert ids[0].tolist() == [3, 6, 8, 11, 13, 16, 18]
    assert ids[1].tolist() == [0, 2, 3, 4, 5, 6, 7]
    assert ids[2].tolist() == [2, 7, 12, 17, 22, 27, 32]


def test_zeros_of_both_signs_tie() -> None:
    embeddings = torch.tensor([[0.0], [-1e-30], [0.0], [1e-30], [5.0]])
    gradients = torch.tensor([[1e-30], [-1e-30]])  # 1e-60 is 0, of either sign
    ids, scores = chosen(embeddings, gradients, torch.ones(5, dtype=torch.bool), 5)
    assert ids.tolist() == [[0, 1, 2, 3, 4], [4, 0, 1, 2, 3]]
    assert scores[:, :4].abs().max() < 1e-29


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_scores_that_are_no_numbers_are_not_chosen() -> None:
    embeddings = random_matrix(200, 4, torch.float32).contiguous()
    embeddings[3], embeddings[4], embeddings[5] = torch.nan, torch.inf, -torch.inf
    gradients = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    ids, scores = chosen(embeddings, gradients, torch.ones(200, dtype=torch.bool), 64)
    assert int(ids[0, 0]) == 5
    assert scores[0, 0] == -math.inf
    assert not {3, 4} & set(ids[0].tolist())
    assert scores[0, 1:].isfinite().all()


@pytest.mark.parametrize("num_programs", [1, 7])
def test_the_number_of_programs_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch, num_programs: int
) -> None:
    embeddings = random_matrix(600, 16, torch.bfloat16)
    gradients = random_matrix(3, 16, torch.float32, seed=1)
    allowed = torch.arange(600) % 2 > 0
    expected = chosen(embeddings, gradients, allowed, 9)
    monkeypatch.setattr(kernels, "_num_programs", lambda _: num_programs)
    found = chosen(embeddings, gradients, allowed, 9)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1e-30, 1e-8, 1e6])
def test_gradients_may_be_tiny_or_large(dtype: torch.dtype, size: float) -> None:
    embeddings = random_matrix(50, 40, dtype)
    gradients = random_matrix(2, 40, torch.float32, seed=1) * size
    gradients[1] = 0.0
    found = candidate_scores(embeddings, gradients, torch.arange(50), 1.0, "triton")
    expected = torch.tensor(all_products(gradients, embeddings), dtype=torch.float64)
    assert distance(found, expected) <= 1e-4 * size
    assert (found[1] == 0.0).all()


@pytest.mark.usefixtures("float64_by_default")
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_have_their_own_type(dtype: torch.dtype) -> None:
    embeddings = random_matrix(50, 8, dtype)
    gradients = random_matrix(2, 8, torch.float32, seed=1)
    ids, allowed = torch.arange(50), torch.ones(50, dtype=torch.bool)
    every = candidate_scores(embeddings, gradients, ids, 1.5, "triton")
    _, best = chosen(embeddings, gradients, allowed, 4)
    assert (every.dtype, best.dtype) == (torch.float32, torch.float32)
    torch.set_default_dtype(torch.float32)
    assert torch.equal(every, candidate_scores(embeddings, gradients, ids, 1.5, "triton"))
    assert torch.equal(best, chosen(embeddings, gradients, allowed, 4)[1])


def test_no_rows_no_ids() -> None:
    embeddings, none = torch.zeros(5, 3), torch.zeros(0, 3)
    ids = torch.arange(0)
    assert candidate_scores(embeddings, torch.zeros(2, 3), ids, 1.0, "triton").shape == (2, 0)
    assert candidate_scores(embeddings, none, torch.arange(2), 1.0, "triton").shape == (0, 2)
    found, scores = chosen(embeddings, none, torch.ones(5, dtype=torch.bool), 2)
    assert (found.shape, found.dtype) == ((0, 2), torch.int64)
    assert (scores.shape, scores.dtype) == ((0, 2), torch.float32)


def test_rows_lie_beyond_what_32_bits_count() -> None:
    torch.use_deterministic_algorithms(False)  # its pages are touched where rows lie, only there
    memory = torch.empty((1 << 31) + 64, dtype=torch.bfloat16)
    embeddings = memory.as_strided((3, 64), (1 << 30, 1))
    embeddings.copy_(random_matrix(3, 64, torch.bfloat16))
    gradients = random_matrix(1, 64, torch.float32, seed=1)
    (expected,) = all_products(gradients, embeddings)
    found = candidate_scores(embeddings, gradients, torch.arange(3), 1.0, "triton")
    assert found[0].tolist() == pytest.approx(expected, abs=1e-3)
    ids, _ = chosen(embeddings, gradients, torch.ones(3, dtype=torch.bool), 3)
    assert ids[0].tolist() == sorted(range(3), key=expected.__getitem__)
