"""Gradients in float16, which has no numbers as small as those of a model that is sure."""

from typing import Any

import pytest
import torch

from greater_fast.config import Config
from greater_fast.gradients import micro_batches
from greater_fast.gradients.example_loss import Terms
from greater_fast.gradients.gradient_pass import ExampleSequence
from greater_fast.gradients.micro_batches import sequence_gradients
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.plain import PlainRolloutEngine
from tests.tiny import tiny_model, tiny_tokenizer


def lm_of(dtype: torch.dtype, factor: float = 1.0) -> LM:
    """A model whose logits are `factor` times as large: the larger, the surer it is."""
    tokenizer = tiny_tokenizer("llama3")
    model = tiny_model("llama", len(tokenizer))
    with torch.no_grad():
        model.model.norm.weight.mul_(factor)
        for weight in model.parameters():  # float32 has the numbers that float16 rounds to
            weight.copy_(weight.half())
    return load_lm((model.to(dtype), tokenizer))


def batch_of(lm: LM) -> list[ExampleSequence]:
    """Sequences whose last token is the model's own first choice."""
    contexts = [tuple((7 * i + n) % 800 + 5 for i in range(n)) for n in (12, 9, 15)]
    logits = PlainRolloutEngine(lm, 4, 1.0).next_logits(contexts)
    return [
        ExampleSequence(n, (*ids, likely), 2, (len(ids) - 1,), Terms((), 0.0, (likely,)))
        for n, (ids, likely) in enumerate(zip(contexts, logits.argmax(-1).tolist(), strict=True))
    ]


def gradients(lm: LM, batch: list[ExampleSequence]) -> torch.Tensor:
    engine = PlainRolloutEngine(lm, 4, 1.0)
    return sequence_gradients(engine, batch, Config(temperature=1.0))


@pytest.mark.parametrize("factor", [1.0, 16.0, 24.0])
def test_they_point_where_those_of_float32_do(factor: float) -> None:
    expected_of, found_of = lm_of(torch.float32, factor), lm_of(torch.float16, factor)
    batch = batch_of(expected_of)
    expected, found = gradients(expected_of, batch), gradients(found_of, batch)
    assert found.dtype is torch.float32
    assert (torch.cosine_similarity(found, expected) > 0.999).all()
    torch.testing.assert_close(found.norm(dim=-1), expected.norm(dim=-1), rtol=0.2, atol=0)
    assert (expected.norm(dim=-1).min() < 1e-7) == (factor == 24.0)  # else none needs a scale


def test_what_overflows_is_scaled_less_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = lm_of(torch.float16)
    batch, used = batch_of(lm), []
    expected, plain = gradients(lm, batch), micro_batches._batch_gradients

    def overflowing(lm: LM, batch: list[ExampleSequence], **rest: Any) -> torch.Tensor:
        scales = [s.terms.scale for s in batch]
        used.append(scales)
        found = plain(lm, batch, **rest)
        found[1] = torch.inf if scales[1] > 16 else found[1]
        return found

    monkeypatch.setattr(micro_batches, "_batch_gradients", overflowing)
    found = gradients(lm, batch)
    assert [sorted(scales) for scales in used] == [
        [first, 4096.0, 4096.0] for first in (4096.0, 256.0, 16.0)
    ]
    torch.testing.assert_close(found, expected, rtol=0.05, atol=1e-5)


def test_what_overflows_at_any_scale_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search then says whose gradient it is, and what to do."""
    lm, num_passes = lm_of(torch.float16), []

    def overflowing(lm: LM, batch: list[ExampleSequence], **_: Any) -> torch.Tensor:
        num_passes.append(len(batch))
        return torch.full((len(batch), lm.embedding_width), torch.inf)

    monkeypatch.setattr(micro_batches, "_batch_gradients", overflowing)
    assert gradients(lm, batch_of(lm)).isinf().all()
    assert num_passes == [3] * 4  # by 4096, 256, 16 and 1
