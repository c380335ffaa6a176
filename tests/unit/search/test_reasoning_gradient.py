"""The gradient of how likely right reasonings are, beside autograd and beside an exact mean."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from greater_fast.engine import Engine
from greater_fast.examples.layout import Layouts
from greater_fast.model.lm import LM
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.plain import PlainRolloutEngine
from greater_fast.search.gradient import reasoning_gradients
from greater_fast.search.nouns import Position
from greater_fast.search.reasonings import Reasoning
from tests.cases import layouts_of, small_config
from tests.exact import exact_lm

FAMILIES = pytest.mark.parametrize(
    ("family", "kind"), [("llama", "llama3"), ("qwen3", "llama3"), ("gemma2", "sentencepiece")]
)
RIGHT, WRONG = Reasoning((20, 21, 22), True, 1), Reasoning((30, 31), False, None)
REASONINGS = [
    [RIGHT, WRONG],
    [RIGHT, Reasoning((40,), True, 1)],
    [Reasoning((), False, 1), RIGHT, Reasoning((9, 8, 7, 6), True, None), WRONG],
    [],
    [WRONG, RIGHT, WRONG],
]


def engine_of(lm: LM) -> Engine:
    return RolloutEngine(lm, kv_cache_bytes=1 << 24, poisoned=True)


def gradients(
    engine: Engine,
    layouts: Layouts,
    rows: Sequence[Sequence[Reasoning]] = REASONINGS,
    index: int = 3,
    **settings: Any,
) -> torch.Tensor:
    position = Position(0, index, layouts.prompt_ids)
    return reasoning_gradients(engine, layouts, rows, position, small_config(**settings))


def log_f(
    lm: LM, context: Sequence[int], reasoning: Reasoning, shift: torch.Tensor
) -> torch.Tensor:
    """log f(reasoning, end | context); `shift` [T, D] is added to the context's embeddings."""
    end = [] if reasoning.end_id is None else [reasoning.end_id]
    written = [*reasoning.ids, *end]
    embedded = lm.embed(torch.tensor([*context, *written]))
    embedded = torch.cat([embedded[: len(context)] + shift, embedded[len(context) :]])
    logits = lm.model(inputs_embeds=embedded[None], use_cache=False).logits[0]
    logprobs = logits[len(context) - 1 : -1].log_softmax(-1)
    return logprobs[torch.arange(len(written)), torch.tensor(written)].sum()


def loss(lm: LM, layouts: Layouts, row: int, shift: torch.Tensor, kind: str) -> torch.Tensor:
    """L_i by its formula, one reasoning after the other."""
    own = REASONINGS[row]
    if kind == "stored":
        own = [r for number, r in enumerate(own) if r not in own[:number]]
    context = layouts.context_ids(row, layouts.prompt_ids)
    total = shift.sum() * 0
    for number, reasoning in enumerate(own):
        others = [float(r.is_right) for i, r in enumerate(own) if i != number]
        advantage = float(reasoning.is_right) - sum(others) / len(others)
        length = len(reasoning.ids) + (reasoning.end_id is not None)
        value = log_f(lm, context, reasoning, shift) / (length if kind == "stored" else 1)
        total = total - advantage * value / len(own)
    return total


def expected(lm: LM, layouts: Layouts, index: int, kind: str) -> torch.Tensor:
    found = []
    for row in range(len(layouts)):
        length = len(layouts.context_ids(row, layouts.prompt_ids))
        shift = torch.zeros(length, lm.embedding_width, dtype=lm.dtype, requires_grad=True)
        (whole,) = torch.autograd.grad(loss(lm, layouts, row, shift, kind), shift)
        found.append(whole[len(layouts.rows[row].head_ids) + index])
    return torch.stack(found)


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@FAMILIES
@pytest.mark.parametrize("reasonings", ["stored", "sampled"])
def test_it_is_autograds_of_the_formula_in_float64(
    family: str, kind: str, reasonings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = exact_lm(family, monkeypatch, kind)
    layouts = layouts_of(lm, len(REASONINGS))
    for index in (0, 7, len(layouts.prompt_ids) - 1):
        wanted = expected(lm, layouts, index, reasonings)
        for engine, limit in ((engine_of(lm), 10_000), (PlainRolloutEngine(lm), 1)):
            found = gradients(
                *(engine, layouts, REASONINGS, index),
                reasonings=reasonings,
                gradient_batch_tokens=limit,
            )
            assert found.dtype == torch.float64
            assert error(found, wanted) < 1e-9
            for row, own in enumerate(REASONINGS):
                is_mixed = len({r.is_right for r in own}) == 2
                assert bool(found[row].any()) == is_mixed
