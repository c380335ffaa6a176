"""Plans beside sums written out by hand, and advice that must hold when it is followed."""

import dataclasses
import math
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from greater_fast.config import KV_CACHE_BYTES, Config
from greater_fast.examples.layout import Layouts
from greater_fast.memory import activations
from greater_fast.memory.budget import MemoryPlan, RowLengths
from greater_fast.memory.plan import plan_memory
from greater_fast.memory.shapes import ModelShapes
from greater_fast.model.layers import LayerShape
from greater_fast.ranks import ALONE
from tests.cases import examples, layouts_of, tiny_lm

GIB, MIB = 1 << 30, 1 << 20
LLAMA_3_8B = ModelShapes(
    weight_bytes=2 * 8_030_261_248,
    linear_bytes=2 * (8_030_261_248 - 2 * 128_256 * 4096 - 65 * 4096),
    layers=32
    * (LayerShape(num_heads=32, num_kv_heads=8, key_size=128, value_size=128, inner=14336),),
    width=4096,
    vocab_size=128_256,
    itemsize=2,
)
ROWS = RowLengths(num_train=50, num_rows=100, mean=500, longest=600)


def sizes(plan: MemoryPlan) -> dict[str, int]:
    return {need.name: need.num_bytes for need in plan.needs}


def test_a_model_of_8b_on_24_gib_by_hand() -> None:
    config = Config(gradient_batch_tokens=1024, gradient_checkpointing="on")
    plan = plan_memory(LLAMA_3_8B, ROWS, config, 24 * GIB)
    layer = 4 * 4096 * 4 + (2 * 32 + 4 * 8) * 128 * 2 + 2 * 14336 * 2
    gradient = math.ceil(1024 * (32 * 4096 * 2 + layer) / 0.7)
    fixed = {
        "weights": 16_060_522_496,
        "gradient": gradient,
        "logits": 3 * 128 * MIB,
        "overhead": GIB + GIB // 2,
    }
    assert plan.fits
    assert plan.total_bytes == 24 * GIB
    # 150 sequences of 38 blocks would take more than is left.
    assert 24 * GIB - sum(fixed.values()) < 150 * 38 * 16 * 131_072
    assert sizes(plan) == {**fixed, "K/V pool": 24 * GIB - sum(fixed.values())}
    assert plan.pool_bytes == sizes(plan)["K/V pool"]
    room = plan.pool_bytes // (38 * 16 * 131_072)
    assert f"{room} of 150 sequences of 600 tokens (mean 500)" in plan.needs[-1].how
    assert plan.verdict.endswith("= 24.00 GiB fit into 24.00 GiB")
    assert plan.advice == ()


def test_the_pool_is_no_larger_than_can_be_used() -> None:
    plan = plan_memory(LLAMA_3_8B, ROWS, Config(), 80 * GIB)
    assert plan.pool_bytes == 150 * 38 * 16 * 131_072
    few = dataclasses.replace(ROWS, num_train=4, num_rows=30)
    plan = plan_memory(LLAMA_3_8B, few, Config(), 80 * GIB)
    assert plan.pool_bytes == 30 * 38 * 16 * 131_072
    on_cpu = plan_memory(LLAMA_3_8B, ROWS, Config(), 80 * GIB, device_type="cpu")
    assert on_cpu.pool_bytes == KV_CACHE_BYTES


def test_what_the_reasonings_gradient_takes() -> None:
    """Stored ones no memory more; draws have sequences and noise of their own."""
    paper = plan_memory(LLAMA_3_8B, ROWS, Config(), 80 * GIB)
    stored = plan_memory(LLAMA_3_8B, ROWS, Config(gradient="both", num_reasonings=6), 80 * GIB)
    assert sizes(stored) == sizes(paper)
    assert "; reasonings too, up to 6 of a row" in stored.needs[1].how
    assert "reasonings" not in paper.needs[1].how
    config = Config(gradient="both", reasonings="sampled", num_reasonings=6)
    drawn = plan_memory(LLAMA_3_8B, ROWS, config, 80 * GIB)
    assert drawn.pool_bytes == 300 * 38 * 16 * 131_072
    assert sizes(drawn)["logits"] == 4 * 128 * MIB


def test_a_random_shortlist_leaves_the_gradients_memory_to_the_pool() -> None:
    taking = plan_memory(LLAMA_3_8B, ROWS, Config(), 24 * GIB)
    config = Config(shortlist="random", gradient="both", gradient_checkpointing="on")
    control = plan_memory(LLAMA_3_8B, ROWS, config, 24 * GIB)
    assert sizes(control)["gradient"] == control.gradient_tokens == 0
    assert control.needs[1].how == "none: the shortlist is random"
    assert not control.checkpointing
    assert control.pool_bytes > taking.pool_bytes
    assert control.needed_bytes <= control.total_bytes
    for device in ("cpu", "mps"):
        on_other = plan_memory(LLAMA_3_8B, ROWS, config, 80 * GIB, device_type=device)
        assert sizes(on_other)["gradient"] == 0


def test_few_rows_fill_a_micro_batch_with_their_reasonings() -> None:
    few = dataclasses.replace(ROWS, num_train=2)
    for settings, tokens in (({}, 1200), ({"gradient": "both", "num_reasonings": 3}, 3600)):
        plan = plan_memory(LLAMA_3_8B, few, Config(**settings), 320 * GIB)
        assert plan.gradient_tokens == tokens


def test_the_pool_is_as_set() -> None:
    config = Config(kv_cache_bytes=3 * GIB)
    plan = plan_memory(LLAMA_3_8B, ROWS, config, 80 * GIB)
    assert (plan.pool_bytes, plan.settled(config)) == (3 * GIB, config)
    least = 38 * 16 * 131_072
    config = Config(kv_cache_bytes=least)
    assert plan_memory(LLAMA_3_8B, ROWS, config, 80 * GIB).pool_bytes == least
    config = Config(kv_cache_bytes=least - 1)
    with pytest.raises(ValueError, match=f"600 tokens: give it {least} at least"):
        plan_memory(LLAMA_3_8B, ROWS, config, 80 * GIB)
    generate = dataclasses.replace(config, engine="generate")
    assert plan_memory(LLAMA_3_8B, ROWS, generate, 80 * GIB).pool_bytes is None


def test_settings_that_name_no_pool_get_the_plans() -> None:
    plan = plan_memory(LLAMA_3_8B, ROWS, Config(), 24 * GIB)
    assert plan.settled(Config(steps=3)) == Config(steps=3, kv_cache_bytes=plan.pool_bytes)
    generate = Config(engine="generate")
    assert plan_memory(LLAMA_3_8B, ROWS, generate, 80 * GIB).settled(generate) == generate


def test_generate_keeps_a_batch() -> None:
    plan = plan_memory(LLAMA_3_8B, ROWS, Config(engine="generate", batch_size=8), 80 * GIB)
    assert sizes(plan)["K/V of a batch"] == 8 * 600 * 131_072 * 33 // 32


@pytest.mark.parametrize(
    ("batch_tokens", "num_train", "tokens"),
    [(1024, 50, 1024), (100, 50, 600), (10**6, 50, 30_000), (10**6, 2, 1200)],
)
def test_one_example_at_least_goes_through_and_all_at_most(
    batch_tokens: int, num_train: int, tokens: int
) -> None:
    rows = dataclasses.replace(ROWS, num_train=num_train)
    plan = plan_memory(LLAMA_3_8B, rows, Config(gradient_batch_tokens=batch_tokens), 999 * GIB)
    assert plan.gradient_tokens == tokens
    assert sizes(plan)["gradient"] == math.ceil(LLAMA_3_8B.activation_bytes(tokens) / 0.7)
    on_cpu = plan_memory(
        *(LLAMA_3_8B, rows, Config(gradient_batch_tokens=batch_tokens), 999 * GIB),
        device_type="cpu",
    )
    assert sizes(on_cpu)["gradient"] == LLAMA_3_8B.activation_bytes(tokens)


@pytest.mark.parametrize("gib", [20, 24, 32, 40, 48, 80])
def test_the_pass_finds_what_was_planned(gib: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is free beside weights, pool and overhead is enough for the planned tokens."""
    config = Config()
    plan = plan_memory(LLAMA_3_8B, ROWS, config, gib * GIB)
    assert plan.fits
    assert plan.pool_bytes is not None
    free = gib * GIB - plan.pool_bytes - sizes(plan)["weights"] - sizes(plan)["overhead"]
    lm: Any = SimpleNamespace(device=torch.device("cuda"), ranks=ALONE)
    monkeypatch.setattr(activations, "free_bytes", lambda _: free)
    monkeypatch.setattr(activations.ModelShapes, "of", lambda _: LLAMA_3_8B)
    found = activations.plan_pass(lm, [ROWS.longest] * ROWS.num_train, config)
    assert found.max_tokens >= plan.gradient_tokens >= ROWS.longest
    assert found.checkpointing == plan.checkpointing


def test_a_gradient_of_several_examples_leaves_most_to_the_pool() -> None:
    def planned(gib: int, **settings: Any) -> MemoryPlan:
        return plan_memory(LLAMA_3_8B, ROWS, Config(**settings), gib * GIB)

    once = planned(24, gradient_checkpointing="off")
    assert once.gradient_tokens == 600  # one example: a third would be less
    assert 600 < planned(32).gradient_tokens < 4096
    left = 32 * GIB - sum(sizes(planned(32))[name] for name in ("weights", "logits", "overhead"))
    assert left // 3 - 10 * MIB < sizes(planned(32))["gradient"] <= left // 3
    assert planned(96).gradient_tokens == 4096
    assert planned(32, kv_cache_bytes=11 * GIB).gradient_tokens < planned(32).gradient_tokens
    assert planned(32, kv_cache_bytes=GIB).gradient_tokens > planned(32).gradient_tokens
    assert planned(32, engine="generate", batch_size=1).gradient_tokens > 1500


def test_sampling_makes_noise_beside_logits() -> None:
    greedy = sizes(plan_memory(LLAMA_3_8B, ROWS, Config(), 80 * GIB))["logits"]
    sampling = plan_memory(LLAMA_3_8B, ROWS, Config(sampling_temperature=0.5), 80 * GIB)
    assert sizes(sampling)["logits"] == greedy + 128 * MIB


def test_layers_are_computed_twice_only_where_it_does_not_fit_otherwise() -> None:
    def planned(total: int, checkpointing: str) -> MemoryPlan:
        config = Config(gradient_batch_tokens=1024, gradient_checkpointing=checkpointing)
        return plan_memory(LLAMA_3_8B, ROWS, config, total)

    assert not planned(48 * GIB, "auto").checkpointing
    assert planned(48 * GIB, "on").checkpointing
    assert planned(18 * GIB, "auto").checkpointing
    assert planned(18 * GIB, "auto").fits
    assert not planned(18 * GIB, "off").fits
    assert not planned(4 * GIB, "auto").fits


def test_layers_are_computed_twice_for_a_pool_of_many_more_sequences() -> None:
    def planned(gib: int, checkpointing: str, **settings: Any) -> MemoryPlan:
        config = Config(gradient_checkpointing=checkpointing, **settings)
        return plan_memory(LLAMA_3_8B, ROWS, config, gib * GIB)

    once, auto = planned(24, "off"), planned(24, "auto")
    assert once.fits
    assert auto.checkpointing
    assert auto.gradient_tokens == 1024
    assert sizes(auto)["K/V pool"] > 1.25 * sizes(once)["K/V pool"]
    assert not planned(32, "auto").checkpointing  # its pool would hold a tenth more
    assert not planned(80, "auto").checkpointing  # all sequences fit
    assert not planned(24, "auto", kv_cache_bytes=2 * GIB).checkpointing  # the pool is as set
    many = dataclasses.replace(
        ROWS, num_rows=1000
    )  # a set: its pool may be larger, and a step gains nothing
    config = Config(gradient_checkpointing="auto")
    assert not plan_memory(LLAMA_3_8B, many, config, 32 * GIB).checkpointing
    assert plan_memory(LLAMA_3_8B, many, config, 24 * GIB).checkpointing
    assert not planned(24, "auto", engine="generate", batch_size=4).checkpointing


def changed(config: Config, advice: str) -> Config:
    """The settings as a line of advice names them."""
    name, value = re.findall(r"^(\w+)=(\d+):", advice)[0]
    return dataclasses.replace(config, **{name: int(value)})


def test_advice_is_exact_about_settings() -> None:
    config = Config(gradient_batch_tokens=2000)
    needed = plan_memory(LLAMA_3_8B, ROWS, config, 1).needed_bytes
    plan = plan_memory(LLAMA_3_8B, ROWS, config, needed - 50 * MIB)
    assert not plan.fits
    advice = next(line for line in plan.advice if "gradient_batch_tokens" in line)
    assert advice.endswith("then it fits")
    followed = changed(config, advice)
    assert plan_memory(LLAMA_3_8B, ROWS, followed, needed - 50 * MIB).fits
    more = dataclasses.replace(followed, gradient_batch_tokens=followed.gradient_batch_tokens + 1)
    assert not plan_memory(LLAMA_3_8B, ROWS, more, needed - 50 * MIB).fits


def test_advice_on_a_pool_that_was_set() -> None:
    config = Config(kv_cache_bytes=8 * GIB, gradient_batch_tokens=1)
    plan = plan_memory(LLAMA_3_8B, ROWS, config, 24 * GIB)
    advice = next(line for line in plan.advice if "kv_cache_bytes" in line)
    followed = plan_memory(LLAMA_3_8B, ROWS, changed(config, advice), 24 * GIB)
    assert followed.needed_bytes == 24 * GIB


def test_advice_on_generate() -> None:
    config = Config(engine="generate", batch_size=100, gradient_batch_tokens=1)
    plan = plan_memory(LLAMA_3_8B, ROWS, config, 22 * GIB)
    advice = next(line for line in plan.advice if "batch_size" in line)
    assert plan_memory(LLAMA_3_8B, ROWS, changed(config, advice), 22 * GIB).fits


def test_shorter_reasoning_helps_as_much_as_it_says() -> None:
    config = Config(gradient_batch_tokens=1)
    needed = plan_memory(LLAMA_3_8B, ROWS, config, 1).needed_bytes
    plan = plan_memory(LLAMA_3_8B, ROWS, config, needed - 100 * MIB)
    advice = next(line for line in plan.advice if "max_new_tokens" in line)
    assert advice.startswith("max_new_tokens=256: ")
    assert advice.endswith("then it fits")
    shorter = dataclasses.replace(ROWS, mean=244, longest=344)
    followed = changed(config, advice)
    assert plan_memory(LLAMA_3_8B, shorter, followed, needed - 100 * MIB).fits


def test_weights_of_fewer_bits() -> None:
    single = dataclasses.replace(
        LLAMA_3_8B,
        weight_bytes=2 * LLAMA_3_8B.weight_bytes,
        linear_bytes=2 * LLAMA_3_8B.linear_bytes,
        itemsize=4,
    )
    plan = plan_memory(single, ROWS, Config(), 24 * GIB)
    assert any(line.startswith("dtype='bfloat16'") for line in plan.advice)
    (line,) = [line for line in plan.advice if line.startswith("4-bit weights")]
    assert line.endswith("then it fits")
    plan = plan_memory(LLAMA_3_8B, ROWS, Config(), 16 * GIB)
    assert not any("dtype" in line for line in plan.advice)
    plan = plan_memory(LLAMA_3_8B.in_4_bits(), ROWS, Config(), 6 * GIB)
    assert not any("4-bit" in line for line in plan.advice)


def test_checkpointing_is_advised_where_it_can_be_turned_on() -> None:
    def advice(checkpointing: str) -> str:
        config = Config(gradient_batch_tokens=1024, gradient_checkpointing=checkpointing)
        return " ".join(plan_memory(LLAMA_3_8B, ROWS, config, 18 * GIB).advice)

    assert "gradient_checkpointing='auto'" in advice("off")
    assert "gradient_checkpointing" not in advice("auto")


def test_what_does_not_help_alone_may_help_together() -> None:
    half = plan_memory(LLAMA_3_8B, ROWS, Config(), 16 * GIB)
    assert any(line.endswith("then it fits") for line in half.advice)
    wide = Config(gradient_batch_tokens=1024)
    small = plan_memory(LLAMA_3_8B, ROWS, wide, int(7.9 * GIB))
    assert all(line.endswith("not enough alone") for line in small.advice[:-1])
    assert len(small.advice) > 2
    assert small.advice[-1] == "with all of these together it fits"
    none = plan_memory(LLAMA_3_8B, ROWS, Config(), GIB)
    assert none.advice[-1].startswith("no setting is enough: take a smaller model")


def test_lengths_are_those_of_the_layouts() -> None:
    lm = tiny_lm()
    config = Config(max_new_tokens=10)
    layouts: dict[str, Layouts] = {
        "train": layouts_of(lm, examples(9)[:3]),
        "dev": layouts_of(lm, examples(9)[3:]),
    }
    lengths = RowLengths.of(layouts, config)
    rows = [row for split in layouts.values() for row in split.rows]
    around = [len(row.head_ids) + len(row.tail_ids) for row in rows]
    longest = max(split.longest_sequence(config) for split in layouts.values())
    assert lengths == RowLengths(
        num_train=3,
        num_rows=6,
        longest=longest,
        mean=longest - max(around) + round(sum(around) / 9),
    )
    assert lengths.shortened(4).longest == longest - 4


def test_a_plan_as_plain_values() -> None:
    plan = plan_memory(LLAMA_3_8B, ROWS, Config(), 24 * GIB)
    values: dict[str, Any] = plan.to_dict()
    assert sum(need["num_bytes"] for need in values["needs"]) == values["needed_bytes"]
    assert values["fits"] is True
    assert values["verdict"] == plan.verdict
    assert len(plan.table) == len(values["needs"]) == 5
