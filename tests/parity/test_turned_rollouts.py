"""Rollouts whose attention norms and turns heads itself, by family, are those of csrc."""

import pytest

from greater_fast.engine import RolloutRequest
from greater_fast.rollouts import batch
from greater_fast.rollouts.batch import RolloutEngine
from tests.cases import tiny_lm
from tests.parity.test_rollout_engine import check
from tests.unit.model.gpu.launches import recorded

FAMILIES = ["qwen2", "qwen3", "gemma3", "phi3"]  # others: test_triton_engine


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_csrc(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt is cut into two steps; what engines try at their start is left out."""
    lm = tiny_lm(family)
    asked = [RolloutRequest(tuple(range(20, 31)), 2, frozenset(), (2, 4), (7, 8), num_scored=2)]
    expected = RolloutEngine(lm, kv_cache_bytes=1 << 18, temperature=0.2).run(asked)
    monkeypatch.setattr(batch, "usable_backend", lambda *_: "triton")
    monkeypatch.setattr(batch, "is_batch_invariant", lambda *_: True)
    options = {"kv_cache_bytes": 1 << 18, "temperature": 0.2, "poisoned": True}
    engine = RolloutEngine(lm, kernels="triton", max_tokens=8, **options)
    with recorded() as launched:
        found = engine.run(asked)
    check(found, expected)
    assert "store_kv_kernel" not in launched
    assert launched.count("turn_kernel") == launched.count("paged_attention_kernel") > 0
