import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from greater_fast.config import Config
from greater_fast.model.text.scripts import ASCII
from greater_fast.search import score as stage
from greater_fast.search.nouns import Candidates, Position
from tests.cases import small_config, tiny_lm

POSITION = Position(0, 1, (10, 11, 12))


def score(
    gradient: torch.Tensor,
    lm: Any,
    candidates: Candidates,
    position: Position,
    config: Config,
    survives: Callable[[Sequence[int]], bool] = lambda _: True,
) -> dict[int, float | None]:
    """The stage, with a layout in which the prompts that survive are made up."""
    layouts: Any = SimpleNamespace(
        round_trips=lambda prompts: [survives(ids) for ids in prompts],
        candidate_mask=lm.vocabulary.candidate_mask(ASCII),
        words=lm.vocabulary.words,
    )
    return stage.score([gradient], [lm], layouts, candidates, position, config)


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


def test_scores_wait_for_a_gradient_in_another_thread() -> None:
    """It puts embeddings of its own into what the model's module gives."""
    lm, gradient, ids = tiny_lm("gemma2"), direction(), range(60, 70)
    expected = score(gradient, lm, candidates(*ids), POSITION, Config())
    with ThreadPoolExecutor(1) as pool:
        with lm.lock:
            hook = lm.model.get_input_embeddings().register_forward_hook(lambda *_: gradient)
            found = pool.submit(score, gradient, lm, candidates(*ids), POSITION, Config())
            with pytest.raises(TimeoutError):
                found.result(0.1)
            hook.remove()
        assert found.result(60) == expected


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
) -> dict[int, float | None]:
    config = small_config(shortlist="random", **settings)
    layouts: Any = SimpleNamespace()
    position = Position(step, 1, POSITION.prompt_ids)
    return stage.score([], [], layouts, candidates(*ids), position, config)


def test_the_random_control_is_seeded_by_seed_and_step() -> None:
    first = random_shortlist()
    torch.manual_seed(5)
    assert random_shortlist() == first
    assert set(random_shortlist(seed=1)) != set(first) != set(random_shortlist(step=1))


def test_the_random_control_has_the_same_size_and_no_scores() -> None:
    for size in (1, 3, 7):
        found = random_shortlist(shortlist_size=size)
        assert len(found) == size
        assert list(found) == sorted(found)
        assert set(found.values()) == {None}
    assert set(random_shortlist(ids=range(60, 62))) == {60, 61}


def test_the_random_control_ignores_the_scores() -> None:
    gradients = score(direction(), tiny_lm(), candidates(*range(60, 160)), POSITION, Config())
    drawn = [random_shortlist(step) for step in range(60)]
    assert all(set(d) != set(gradients) for d in drawn)
    seen = {i for d in drawn for i in d}
    assert len(seen) > 70  # 180 draws of 100 ids: 84 are expected


def by_vocabulary(family: str, gradient: torch.Tensor, position: Position) -> list[int]:
    """All tokens that may be new at a place, lowest score first."""
    lm = tiny_lm(family)
    allowed = set(lm.vocabulary.candidate_mask(ASCII).nonzero().flatten().tolist())
    prompt, t = position.prompt_ids, position.index
    words = {
        lm.vocabulary.text([i]).strip().lower()
        for i in (*prompt[max(t - 1, 0) : t], *prompt[t + 1 : t + 2])
    }
    allowed = {i for i in allowed if lm.vocabulary.text([i]).strip().lower() not in words}
    allowed -= {position.incumbent_id}
    scores = float64_scores(family, range(lm.vocab_size), gradient)
    return sorted(allowed, key=lambda i: (scores[i], i))


def allowed_prompt(family: str) -> tuple[int, int, int]:
    """A prompt of the tokens that a gradient likes best, so that the rules matter."""
    first, second, third = by_vocabulary(family, direction(), Position(0, 0, (0, 0)))[:3]
    return first, second, third


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("index", [0, 1, 3])
@pytest.mark.parametrize("size", [1, 3, 40])
def test_the_whole_vocabulary_by_gradient(family: str, index: int, size: int) -> None:
    position = Position(0, index, allowed_prompt(family))
    config = Config(candidates="vocabulary", shortlist_size=size)
    order = by_vocabulary(family, direction(), position)
    expected = order[:size]
    found = score(direction(), tiny_lm(family), candidates(), position, config)
    assert list(found) == expected
    values = float64_scores(family, range(tiny_lm(family).vocab_size), direction())
    assert found == {i: pytest.approx(values[i], rel=1e-4, abs=1e-4) for i in expected}


def test_tokens_that_do_not_survive_make_way_for_the_next() -> None:
    order = by_vocabulary("llama", direction(), POSITION)
    broken = {*order[:30], order[31]}
    config = Config(candidates="vocabulary", shortlist_size=3)
    lm = tiny_lm()
    found = score(direction(), lm, candidates(), POSITION, config, lambda p: p[1] not in broken)
    assert list(found) == [order[30], order[32], order[33]]
    tried: list[Sequence[int]] = []
    none = score(direction(), lm, candidates(), POSITION, config, lambda p: bool(tried.append(p)))
    assert none == {}
    assert len(order) > 300
    assert [p[1] for p in tried] == order[: len(tried)]  # each once, and all of a small vocabulary


def test_both_take_turns() -> None:
    order = by_vocabulary("llama", direction(), POSITION)
    ids = sorted([order[0], order[20], order[30]])
    for size, expected in (
        (1, [0]),
        (2, [0, 20]),
        (3, [0, 20, 1]),
        (4, [0, 20, 1, 30]),
        (6, [0, 20, 1, 30, 2, 3]),
    ):
        config = Config(candidates="both", shortlist_size=size)
        found = score(direction(), tiny_lm(), candidates(*ids), POSITION, config)
        assert list(found) == [order[i] for i in sorted(expected)]
        assert list(found.values()) == sorted(found.values())
    none_proposed = score(direction(), tiny_lm(), candidates(), POSITION, config)
    assert list(none_proposed) == order[:6]


@pytest.mark.parametrize("source", ["vocabulary", "both"])
def test_the_random_control_draws_from_the_vocabulary(source: str) -> None:
    order = by_vocabulary("llama", direction(), POSITION)
    drawn: list[int] = []
    for step in range(40):
        position = Position(step, 1, POSITION.prompt_ids)
        config = small_config(shortlist="random", candidates=source)
        found = score(
            direction(), tiny_lm(), candidates(*order[:3]), position, config, lambda p: p[1] % 2 > 0
        )
        assert found == score(
            direction(), tiny_lm(), candidates(*order[:3]), position, config, lambda p: p[1] % 2 > 0
        )
        assert set(found.values()) == {None}
        assert len(found) == config.shortlist_size
        drawn += [i for i in found if i not in order[:3]]
    assert all(i in order and i % 2 for i in drawn)
    ranks = [order.index(i) / len(order) for i in drawn]
    share = math.fsum(ranks) / len(ranks)
    assert 0.3 < share < 0.7  # drawn, not chosen by score


def test_an_embedding_that_is_more_than_a_product_is_asked_for_its_rows() -> None:
    lm, ids = tiny_lm("qwen3"), range(60, 90)
    module = lm.model.get_input_embeddings()
    handle = module.register_forward_hook(lambda _module, _ids, rows: rows.tanh())
    try:
        expected = float64_scores("qwen3", ids, direction())
        order = sorted(expected, key=lambda i: expected[i])[:3]
        assert list(score(direction(), lm, candidates(*ids), POSITION, Config())) == order
        config = Config(candidates="vocabulary")
        best = by_vocabulary("qwen3", direction(), POSITION)[:3]
        assert list(score(direction(), lm, candidates(), POSITION, config)) == best
    finally:
        handle.remove()


@pytest.mark.skipif(torch.cuda.is_available(), reason="no interpreter where there is a GPU")
def test_the_kernels_may_be_forced() -> None:
    """They run under the interpreter here."""
    asked = candidates(*range(60, 90))
    expected = score(direction(), tiny_lm(), asked, POSITION, Config(kernels="reference"))
    found = score(direction(), tiny_lm(), asked, POSITION, Config(kernels="triton"))
    assert found == {i: pytest.approx(value, rel=1e-4) for i, value in expected.items()}
