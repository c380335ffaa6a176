"""In float64 the gradient is the oracle's, whatever is reused, packed or kept."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity

from greater_fast.config import Config
from greater_fast.engine import Engine, Rollout
from greater_fast.examples.layout import Layouts
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.plain import PlainRolloutEngine
from greater_fast.search.gradient import prompt_gradient, reasoning_gradients
from greater_fast.search.nouns import Position
from greater_fast.search.optimizer import start
from greater_fast.search.propose import propose
from greater_fast.search.score import score
from tests.cases import layouts_of, small_config
from tests.exact import exact_lm
from tests.oracle import Oracle
from tests.parity.test_oracle_parity import settings_of
from tests.tiny import EXTRACTOR, PROMPT, boolean_rows
from tests.unit.search.test_reasoning_gradient import REASONINGS

FAMILIES = [
    ("llama", "llama3"),
    ("qwen2", "llama3"),
    ("qwen3", "llama3"),
    ("gemma2", "sentencepiece"),
]
NUM_ROWS = 4


@dataclass
class Case:
    """Rows, their rollouts by an engine with a poisoned pool, and the oracle on the same rows."""

    lm: LM
    layouts: Layouts
    engine: Engine
    rollouts: tuple[Rollout, ...]
    oracle: Oracle

    def gradient(self, index: int, engine: Engine | None = None, **settings: Any) -> torch.Tensor:
        position = Position(0, index, self.layouts.prompt_ids)
        given = config(**settings)
        engine = engine or self.engine
        if given.gradient == "reasoning":
            own = REASONINGS[:NUM_ROWS]
            return reasoning_gradients(engine, self.layouts, own, position, given)  # [N, D]
        return prompt_gradient(engine, self.layouts, self.rollouts, position, given)

    def expected(self, index: int) -> torch.Tensor:
        """The one-hot gradient [V]."""
        reasonings = [list(r.reasoning_ids) for r in self.rollouts]
        return self.oracle.gradient(list(self.layouts.prompt_ids), index, reasonings)


def config(**settings: Any) -> Config:
    return small_config(temperature=0.5, max_new_tokens=12, **settings)


def make_case(family: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> Case:
    return case_of(exact_lm(family, monkeypatch, kind), NUM_ROWS, config())


def case_of(lm: LM, num_rows: int, given: Config) -> Case:
    layouts = layouts_of(lm, num_rows)
    engine = RolloutEngine(lm, temperature=given.temperature, kv_cache_bytes=1 << 25, poisoned=True)
    rows, settings = boolean_rows(num_rows), settings_of(given, lm)
    oracle = Oracle(lm.model, lm.tokenizer, rows, EXTRACTOR, settings)
    assert oracle.prompt_ids(PROMPT) == list(layouts.prompt_ids)
    return Case(lm, layouts, engine, start(engine, layouts, given).incumbent.rollouts, oracle)


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative, of a whole vector."""
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_it_is_the_oracles(family: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(family, kind, monkeypatch)
    matrix = case.lm.embed(torch.arange(case.lm.vocab_size))
    for index in (0, 7, len(case.layouts.prompt_ids) - 1):
        found = case.gradient(index)
        assert found.dtype == torch.float64
        assert error(matrix @ found, case.expected(index)) < 1e-8


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
@pytest.mark.parametrize("index", [0, 9])
def test_it_is_that_of_central_differences(
    family: str, kind: str, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case(family, kind, monkeypatch)
    prompt_ids = list(case.layouts.prompt_ids)
    embedding = case.lm.embed(torch.tensor(prompt_ids[index]))

    @torch.no_grad()
    def loss(shift: torch.Tensor) -> float:
        total = 0.0
        for row, rollout in enumerate(case.rollouts):
            reasoning = list(rollout.reasoning_ids)
            answer, nll, _ = case.oracle.read(row, prompt_ids, reasoning, index, embedding + shift)
            total += float(answer + config().fluency_weight * nll)
        return total

    found = case.gradient(index)
    generator = torch.Generator().manual_seed(index)
    for _ in range(3):
        direction = torch.randn(48, generator=generator, dtype=torch.float64)
        direction += found / found.norm()  # so that the slope is not near zero
        step = 1e-5 * direction
        measured = (loss(step) - loss(-step)) / 2e-5
        assert float(found @ direction) == pytest.approx(measured, rel=1e-6)


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
@pytest.mark.parametrize(
    "of",
    [
        {"gradient": "answer"},
        {"gradient": "reasoning", "reasonings": "stored"},
        {"gradient": "reasoning", "reasonings": "sampled"},
    ],
    ids=["answer", "stored", "sampled"],
)
def test_nothing_that_only_saves_work_changes_it(
    family: str, kind: str, of: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefixes that the pool has no room for are computed by the gradient pass."""
    monkeypatch.setattr(RolloutEngine, "store", lambda *_: None)
    case = make_case(family, kind, monkeypatch)
    empty = RolloutEngine(case.lm, kv_cache_bytes=1 << 25, poisoned=True)
    half_full = RolloutEngine(case.lm, kv_cache_bytes=1 << 25, poisoned=True)
    for index in (0, 5):
        ends = [len(row.head_ids) + index for row in case.layouts.rows]
        contexts = [
            case.layouts.context_ids(row, case.layouts.prompt_ids)[:end]
            for row, end in enumerate(ends)
        ]
        half_full.next_logits([ids[:-3] for ids in contexts[1:]])
        assert [found_tokens(case.engine, ids) for ids in contexts] == ends
        assert [found_tokens(half_full, ids) for ids in contexts[1:]] == [n - 3 for n in ends[1:]]
        assert [found_tokens(empty, ids) for ids in contexts] == [0] * NUM_ROWS
        plain = PlainRolloutEngine(case.lm)
        expected = case.gradient(index, plain, gradient_batch_tokens=1, **of)
        assert expected.dtype == torch.float64
        assert expected.any()
        for engine in (case.engine, half_full, empty, plain):
            for limit, checkpointing in ((1, "on"), (130, "off"), (10_000, "on")):
                found = case.gradient(
                    index,
                    engine,
                    gradient_batch_tokens=limit,
                    gradient_checkpointing=checkpointing,
                    **of,
                )
                assert error(found, expected) < 1e-12


def found_tokens(engine: Engine, ids: tuple[int, ...]) -> int:
    found = engine.prefix_kv(ids)
    return found.num_tokens if found else 0


def shortlist(case: Case, gradient: torch.Tensor, index: int) -> list[int]:
    position = Position(0, index, case.layouts.prompt_ids)
    candidates = propose(case.engine, case.layouts, position, config(num_draws=2))
    few = config(shortlist_size=5)
    return list(score([gradient], [case.lm], case.layouts, candidates, position, few))


@pytest.mark.model
def test_smollm2(smollm2: LM, record_property: Callable[[str, object], None]) -> None:
    """fp32 beside the oracle, and bf16 beside fp32 on the same rollouts."""
    case = case_of(smollm2, 2, small_config(temperature=0.5, max_new_tokens=8))
    index = 5
    expected = case.expected(index)
    found = case.gradient(index)
    matrix = smollm2.embed(torch.arange(smollm2.vocab_size))
    assert cosine_similarity(matrix @ found, expected, dim=0) >= 0.99999
    position = Position(0, index, case.layouts.prompt_ids)
    ids = propose(case.engine, case.layouts, position, config(num_draws=2)).ids
    best = sorted(ids, key=lambda i: (float(expected[i]), i))[:5]
    assert shortlist(case, found, index) == best

    model = copy.deepcopy(smollm2.model).to(torch.bfloat16)
    low = PlainRolloutEngine(load_lm((model, smollm2.tokenizer)))
    rough = case.gradient(index, low)
    assert rough.dtype == torch.float32
    assert cosine_similarity(rough, found, dim=0) >= 0.99
    overlap = len(set(shortlist(case, rough, index)) & set(best))
    record_property("shortlist overlap of bfloat16 with float32", f"{overlap} of {len(best)}")
    print(f"cosine {cosine_similarity(rough, found, dim=0):.5f}, overlap {overlap}/{len(best)}")
