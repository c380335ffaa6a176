"""Models that are made ready without a plan of memory."""

import pytest

from greater_fast.config import Config
from greater_fast.ranks import ALONE
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.runs.models import ready
from greater_fast.search.ensemble import members
from tests.cases import tiny_lm


@pytest.mark.parametrize(("given", "each"), [(None, 1 << 21), (1 << 22, 1 << 22)])
def test_models_that_are_not_planned_for_share_a_pool(
    monkeypatch: pytest.MonkeyPatch, given: int | None, each: int
) -> None:
    monkeypatch.setattr(ready, "default_pool_bytes", lambda device: 1 << 22)
    lms = [tiny_lm(), tiny_lm("qwen2")]
    models, _ = ready.make_models(lms, Config(kv_cache_bytes=given), 64, 4, ALONE)
    engines = [own for own in members(models) if isinstance(own, RolloutEngine)]
    assert [own.kv_cache_bytes for own in engines] == [each] * 2
