"""The engine on a GPU: one captured graph, the same text as on the CPU. Skipped without a GPU."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.batch import RolloutEngine
from tests.parity.test_rollout_engine import FAMILIES, check, requests, tiny_lm
from tests.tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def on_gpu(family: str, kind: str, dtype: torch.dtype = torch.float32) -> LM:
    tokenizer = tiny_tokenizer(kind)
    return load_lm((tiny_model(family, len(tokenizer), dtype).to("cuda"), tokenizer))


def make(lm: LM, **options: Any) -> RolloutEngine:
    return RolloutEngine(lm, temperature=0.2, kv_cache_bytes=1 << 24, poisoned=True, **options)


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_the_same_text_as_on_the_cpu(family: str, kind: str) -> None:
    cpu = tiny_lm(family, kind)
    asked = requests(cpu, max_answer_tokens=6)
    engine = make(on_gpu(family, kind), max_tokens=64)
    facts = engine.facts()
    assert facts.has_graph, facts.no_graph
    check(engine.run(asked), make(cpu).run(asked))
    engine.check_integrity()


def test_the_same_samples_as_on_the_cpu() -> None:
    """The noise has the same bits; what a logarithm's last ones change is below the gaps here."""
    sampling = {"sampling_temperature": 1.0, "seed": 3, "max_tokens": 64}
    cpu = tiny_lm("llama", "llama3")
    asked = [replace(r, sample_key=key) for key, r in enumerate(requests(cpu))]
    found = make(on_gpu("llama", "llama3"), **sampling).run(asked)
    check(found, make(cpu, **sampling).run(asked))
    assert found != make(cpu).run(asked)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_same_bits_whatever_else_is_in_the_batch(dtype: torch.dtype) -> None:
    lm = on_gpu("llama", "llama3", dtype)
    asked = requests(lm)
    engine = make(lm, max_tokens=64)
    assert engine.batch_invariant
    together = engine.run(asked)
    assert [make(lm, max_tokens=64).run([one])[0] for one in asked[::5]] == together[::5]
    assert engine.run(asked) == together  # from stored prefixes


def test_sizes_are_chosen() -> None:
    engine = RolloutEngine(on_gpu("llama", "llama3"), longest_sequence=100)
    assert engine.max_tokens in engine.step_ms
    assert engine.kv_cache_bytes > 1 << 30


def test_plain_torch_may_be_forced() -> None:
    """It waits for the GPU: its steps have no fixed shape, and one that has is not captured."""
    cpu, lm = tiny_lm("gemma2", "sentencepiece"), on_gpu("gemma2", "sentencepiece")
    asked = requests(cpu)
    expected = make(cpu).run(asked)
    engine = make(lm, kernels="reference")
    assert not engine.fixed
    check(engine.run(asked), expected)
    fixed = make(lm, kernels="reference", fixed=True, max_tokens=24)
    assert "it waits for the GPU" in str(fixed.facts().no_graph)
    check(fixed.run(asked), expected)
