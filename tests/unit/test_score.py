import pytest
import torch

from greater_fast.config import Config
from greater_fast.nouns import Candidates, Position
from greater_fast.score import score
from tests.cases import small_config, tiny_lm

POSITION = Position(0, 1, (10, 11, 12))


def candidates(*ids: int) -> Candidates:
    return Candidates(ids, tuple(-1.0 for _ in ids), 10)


def direction(seed: int = 0) -> torch.Tensor:
    return torch.randn(48, generator=torch.Generator().manual_seed(seed))


def float64_scores(family: str, ids: range, gradient: torch.Tensor) -> dict[int, float]:
    """One dot product at a time, with the embedding as the model makes it."""
    module = tiny_lm(family).model.get_input_embeddings()
    values = {}
    for i in ids:
        row = module(torch.tensor([i]))[0].tolist()
        values[i] = sum(a * b for a, b in zip(row, gradient.tolist(), strict=True))
    return values


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
@pytest.mark.parametrize("size", [1, 3, 40])
def test_the_lowest_come_first(family: str, size: int) -> None:
    gradient, ids = direction(), range(60, 90)
    expected = float64_scores(family, ids, gradient)
    found = score(
        gradient, tiny_lm(family), candidates(*ids), POSITION, Config(shortlist_size=size)
    )
    order = sorted(expected, key=lambda i: expected[i])[:size]
    assert list(found) == order
    for i, value in found.items():
        assert value == pytest.approx(expected[i], rel=1e-4, abs=1e-4)


def test_gemmas_scale_is_in_the_scores() -> None:
    lm, gradient = tiny_lm("gemma2"), direction()
    (value,) = score(gradient, lm, candidates(60), POSITION, Config()).values()
    bare = float(lm.model.get_input_embeddings().weight[60] @ gradient)
    assert value == pytest.approx(bare * 48**0.5, rel=1e-2)


def test_ties_go_to_the_lower_id() -> None:
    found = score(torch.zeros(48), tiny_lm(), candidates(*range(60, 70)), POSITION, Config())
    assert found == {60: 0.0, 61: 0.0, 62: 0.0}


def test_no_candidates_no_shortlist() -> None:
    for how in ("gradient", "random"):
        assert score(direction(), tiny_lm(), candidates(), POSITION, Config(shortlist=how)) == {}


def test_a_float64_gradient_is_scored_in_float64() -> None:
    gradient = direction().double()
    (value,) = score(gradient, tiny_lm(), candidates(60), POSITION, Config()).values()
    weight = tiny_lm().model.get_input_embeddings().weight[60].double()
    assert value == float(weight @ gradient) or value == pytest.approx(
        float(weight @ gradient), rel=1e-14
    )


def random_shortlist(
    step: int = 0, ids: range = range(60, 160), **settings: int
) -> dict[int, float]:
    config = small_config(shortlist="random", **settings)
    return score(
        direction(), tiny_lm(), candidates(*ids), Position(step, 1, POSITION.prompt_ids), config
    )


def test_the_random_control_is_seeded_by_seed_and_step() -> None:
    first = random_shortlist()
    torch.manual_seed(5)
    assert random_shortlist() == first
    assert set(random_shortlist(seed=1)) != set(first) != set(random_shortlist(step=1))


def test_the_random_control_has_the_same_size_and_true_scores() -> None:
    expected = float64_scores("llama", range(60, 160), direction())
    for size in (1, 3, 7):
        found = random_shortlist(shortlist_size=size)
        assert len(found) == size
        assert list(found.values()) == sorted(found.values())
        assert found == {i: pytest.approx(expected[i], rel=1e-4, abs=1e-4) for i in found}
    assert set(random_shortlist(ids=range(60, 62))) == {60, 61}


def test_the_random_control_ignores_the_scores() -> None:
    gradients = score(direction(), tiny_lm(), candidates(*range(60, 160)), POSITION, Config())
    drawn = [random_shortlist(step) for step in range(60)]
    assert all(set(d) != set(gradients) for d in drawn)
    seen = {i for d in drawn for i in d}
    assert len(seen) > 70  # 180 draws of 100 ids: 84 are expected
