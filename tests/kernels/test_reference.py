import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from greater_fast.kernels.reference import candidate_scores

LOW = [torch.float32, torch.bfloat16, torch.float16]


def by_loop(embeddings: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """[G, K] in float64, one product at a time."""
    return torch.tensor(
        [
            [sum(e * g for e, g in zip(row, grad, strict=True)) for row in embeddings.tolist()]
            for grad in gradients.tolist()
        ],
        dtype=torch.float64,
    ).reshape(len(gradients), len(embeddings))


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 70)),
    dtypes=st.tuples(st.sampled_from(LOW), st.sampled_from(LOW)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_scores_equal_a_float64_loop(
    shape: tuple[int, int, int], dtypes: tuple[torch.dtype, torch.dtype], seed: int
) -> None:
    """Operands of low precision are exact in float32, where the sum is made."""
    num_candidates, num_gradients, width = shape
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(num_candidates, width, generator=generator).to(dtypes[0])
    gradients = torch.randn(num_gradients, width, generator=generator).to(dtypes[1])
    scores = candidate_scores(embeddings, gradients)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(
        scores.double(), by_loop(embeddings, gradients), rtol=1e-5, atol=1e-6 * width
    )


@pytest.mark.parametrize("double", ["embeddings", "gradients"])
def test_float64_stays_float64(double: str) -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(3, 50, generator=generator)
    gradients = torch.randn(2, 50, generator=generator)
    if double == "embeddings":
        embeddings = embeddings.double() + 1e-9
    else:
        gradients = gradients.double() + 1e-9
    scores = candidate_scores(embeddings, gradients)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, by_loop(embeddings, gradients), rtol=1e-13, atol=1e-13)


def test_low_precision_is_not_summed_in_low_precision() -> None:
    """257 ones: bfloat16 has no 257, and would stop at 256."""
    ones = torch.ones(1, 257, dtype=torch.bfloat16)
    assert candidate_scores(ones, ones).item() == 257.0


def test_no_candidates() -> None:
    assert candidate_scores(torch.zeros(0, 4), torch.zeros(2, 4)).shape == (2, 0)
