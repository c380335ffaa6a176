"""Plans of several models beside sums written out by hand."""

from dataclasses import replace

import pytest

from greater_fast.config import KV_CACHE_BYTES, Config
from greater_fast.memory.budget import MemoryPlan
from greater_fast.memory.plan import plan_memory
from greater_fast.model.byte_sizes import CONTEXT_BYTES
from tests.unit.memory.test_plan import GIB, LLAMA_3_8B, ROWS, sizes

SMALL = replace(
    LLAMA_3_8B,
    weight_bytes=LLAMA_3_8B.weight_bytes // 8,
    linear_bytes=LLAMA_3_8B.linear_bytes // 8,
    layers=LLAMA_3_8B.layers[:8],
)


def together(config: Config, gib: float, device_type: str = "cuda") -> MemoryPlan:
    return plan_memory(
        LLAMA_3_8B, ROWS, config, int(gib * GIB), device_type=device_type, beside=[SMALL]
    )


def test_two_models_by_hand() -> None:
    config = Config(gradient_batch_tokens=1024, gradient_checkpointing="on")
    plan, alone = together(config, 80), plan_memory(LLAMA_3_8B, ROWS, config, 80 * GIB)
    wanted = 150 * 38 * 16
    assert plan.pools == (wanted * LLAMA_3_8B.kv_token_bytes, wanted * SMALL.kv_token_bytes)
    assert plan.pool_bytes == sum(own for own in plan.pools if own)
    own = sizes(alone)
    assert sizes(plan) == {
        "weights": LLAMA_3_8B.weight_bytes + SMALL.weight_bytes,
        "gradient": own["gradient"],
        "logits": own["logits"],
        "overhead": own["overhead"] + own["overhead"] - CONTEXT_BYTES,
        "K/V pool": plan.pool_bytes,
    }
    assert plan.fits
    assert plan.needed_bytes <= 80 * GIB
    assert plan.gradient_tokens == alone.gradient_tokens
    assert [plan.settled(config, n).kv_cache_bytes for n in (0, 1)] == list(plan.pools)


def test_pools_share_what_is_left() -> None:
    config = Config(gradient_batch_tokens=1024, gradient_checkpointing="on")
    plan = together(config, 32)
    first, second = plan.pools
    assert first
    assert second
    assert plan.fits
    assert plan.total_bytes - plan.needed_bytes < 4  # all of it, but for rounding
    assert first > second >= 38 * 16 * SMALL.kv_token_bytes


@pytest.mark.parametrize("gib", [20.5, 21, 24, 26, 40, 80])
def test_a_tight_device_holds_both(gib: float) -> None:
    """18 GB are weights: the gradient is sized for what both leave, and so are the pools."""
    plan = together(Config(), gib)
    assert plan.fits
    for own, shapes in zip(plan.pools, (LLAMA_3_8B, SMALL), strict=True):
        assert own
        assert own >= 38 * 16 * shapes.kv_token_bytes


def test_one_model_beside_none_is_planned_as_before() -> None:
    config = Config()
    plan = plan_memory(LLAMA_3_8B, ROWS, config, 24 * GIB, beside=())
    assert plan == plan_memory(LLAMA_3_8B, ROWS, config, 24 * GIB)
    assert plan.pools == ()
    assert plan.settled(config).kv_cache_bytes == plan.pool_bytes


def test_a_pool_that_is_set_is_that_of_each() -> None:
    config = Config(kv_cache_bytes=GIB)
    plan = together(config, 80)
    assert plan.pools == (GIB, GIB)
    assert plan.settled(config, 1) == config


def test_without_pools_one_batch_counts() -> None:
    config = Config(engine="generate", batch_size=8)
    plan = together(config, 80)
    alone = plan_memory(LLAMA_3_8B, ROWS, config, 80 * GIB)
    assert sizes(plan)["K/V of a batch"] == sizes(alone)["K/V of a batch"]
    assert (plan.pool_bytes, plan.pools) == (None, (None, None))


def test_on_a_cpu_libraries_count_once_and_pools_are_bounded() -> None:
    plan = together(Config(), 80, "cpu")
    assert sizes(plan)["overhead"] == 1 << 29
    assert all(own and own <= KV_CACHE_BYTES for own in plan.pools)


def test_advice_holds_for_both_models() -> None:
    config = Config(kv_cache_bytes=8 * GIB)
    plan = together(config, 30)
    assert not plan.fits
    (advice,) = [line for line in plan.advice if line.startswith("kv_cache_bytes=")]
    pool = int(advice.partition("=")[2].partition(":")[0])
    changed = together(Config(kv_cache_bytes=pool), 30)
    assert changed.fits is advice.endswith("then it fits")
    assert changed.needed_bytes < plan.needed_bytes
    none = together(config, 8)
    assert none.advice[-1].startswith("no setting is enough: take fewer or smaller models")
