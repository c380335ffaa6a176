"""The gradient of how likely right reasonings are, beside autograd and beside an exact mean."""

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from greater_fast.engine import Engine
from greater_fast.examples.data import Example
from greater_fast.examples.layout import Layouts, Row
from greater_fast.model.lm import LM
from greater_fast.model.text.vocabulary import Vocabulary
from greater_fast.ranks import ALONE
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.plain import PlainRolloutEngine
from greater_fast.search.gradient import reasoning_gradients
from greater_fast.search.nouns import Position
from greater_fast.search.reasonings import Reasoning
from tests.cases import layouts_of, small_config, table_layouts, tiny_lm, tokenizer
from tests.exact import exact_lm, keep_exact
from tests.tiny import tiny_model

FAMILIES = pytest.mark.parametrize(
    ("family", "kind"), [("llama", "llama3"), ("gemma2", "sentencepiece")]
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
def test_it_is_autograds_of_the_formula_in_float64(
    family: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = exact_lm(family, monkeypatch, kind)
    layouts = layouts_of(lm, len(REASONINGS))
    engine, last = engine_of(lm), len(layouts.prompt_ids) - 1
    for index, reasonings in ((0, "stored"), (last, "stored"), (7, "sampled")):
        wanted = expected(lm, layouts, index, reasonings)
        found = gradients(engine, layouts, REASONINGS, index, reasonings=reasonings)
        assert found.dtype == torch.float64
        assert error(found, wanted) < 1e-9
        for row, own in enumerate(REASONINGS):
            is_mixed = len({r.is_right for r in own}) == 2
            assert bool(found[row].any()) == is_mixed


def test_batches_and_what_was_run_before_change_no_more_than_rounding() -> None:
    """The same bits each time; other micro-batches within rounding."""
    lm = tiny_lm()
    layouts = layouts_of(lm, len(REASONINGS))
    engine = engine_of(lm)
    first = gradients(engine, layouts)
    assert torch.equal(gradients(engine, layouts), first)
    other = engine_of(lm)
    contexts = [layouts.context_ids(row, layouts.prompt_ids) for row in range(len(layouts))]
    other.next_logits([ids[:-5] for ids in contexts[1:3]])
    assert torch.equal(gradients(other, layouts), first)
    for one, settings in (
        (PlainRolloutEngine(lm), {"gradient_batch_tokens": 1}),
        (engine, {"gradient_batch_tokens": 70, "gradient_checkpointing": "on"}),
    ):
        found = gradients(one, layouts, **settings)
        torch.testing.assert_close(found, first, rtol=1e-3, atol=1e-6)


def test_rows_of_one_outcome_cost_nothing() -> None:
    lm = tiny_lm()
    layouts = layouts_of(lm, 3)
    engine = engine_of(lm)
    assert engine.can_pack
    calls: list[torch.Size] = []
    decoder = lm.model.get_decoder()
    hook = decoder.register_forward_pre_hook(
        lambda _, __, given: calls.append(given["inputs_embeds"].shape), with_kwargs=True
    )
    try:
        found = gradients(engine, layouts, [[RIGHT], [WRONG, WRONG], []])
    finally:
        hook.remove()
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.zeros(3, 48))
    assert not calls


class OneModel:
    """As much of an engine as a gradient needs, around a model of six tokens."""

    ranks, can_pack, prefix_capacity = ALONE, True, 0

    def __init__(self, family: str) -> None:
        vocabulary = tokenizer("llama3")
        model = tiny_model(family, 6, torch.float64)
        self.lm = LM(model, vocabulary, "six tokens", Vocabulary(vocabulary), frozenset([1]))
        self.layers = SimpleNamespace(installed=nullcontext)

    def store(self, _: Any) -> None:
        """Nothing."""

    def prefix_kv(self, _: Any) -> None:
        """Nothing."""


def outcomes(end_id: int) -> list[tuple[tuple[int, ...], int | None]]:
    """All that may be written in two tokens, with what ended it."""
    tokens = [token for token in range(6) if token != end_id]
    cut = [((first, second), None) for first in tokens for second in tokens]
    return [((), end_id), *(((token,), end_id) for token in tokens), *cut]


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_over_all_pairs_of_draws_the_mean_is_the_gradient_of_the_expected_reward(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """grad sum_r f(r) R(r), with every r that two tokens can be, each pair as likely as it is."""
    keep_exact(family, monkeypatch)
    engine: Any = OneModel(family)
    lm: LM = engine.lm
    row = Row((3, 5), (4, 2), (4,), Example("?", "a"), "", "")
    every = [Reasoning(ids, sum(ids) % 3 == 0, end) for ids, end in outcomes(end_id=1)]
    layouts = dataclasses.replace(
        table_layouts(1), rows=(row,) * len(every) ** 2, prompt_ids=(2, 0, 4)
    )
    context = torch.tensor([3, 5, 2, 0, 4, 4, 2])
    shift = torch.zeros(len(context), lm.embedding_width, dtype=torch.float64, requires_grad=True)
    likely = torch.stack([log_f(lm, context.tolist(), r, shift).exp() for r in every])
    assert float(likely.sum().detach()) == pytest.approx(1, abs=1e-12)
    rewards = torch.tensor([float(r.is_right) for r in every], dtype=torch.float64)
    (whole,) = torch.autograd.grad((likely * rewards).sum(), shift)

    pairs = [[one, other] for one in every for other in every]
    chances = torch.outer(likely, likely).flatten().detach()
    found = gradients(engine, layouts, pairs, 1, reasonings="sampled", gradient_batch_tokens=10_000)
    mean = (chances[:, None] * found).sum(0)
    assert error(mean, -whole[2 + 1]) < 1e-9
