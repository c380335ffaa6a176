"""The gradient on a GPU: the CPU's but for rounding, the same bits again. Skipped without one."""

from functools import partial

import pytest
import torch

from greater_fast.engine import Engine, Rollout
from greater_fast.gradients.attention_choice import choose_attention
from greater_fast.gradients.gradient_pass import check_gradient
from greater_fast.model.lm import LM
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.plain import PlainRolloutEngine
from greater_fast.search.gradient import example_gradients, reasoning_gradients
from greater_fast.search.nouns import Position
from greater_fast.search.reasonings import Reasoning
from tests.cases import layouts_of, small_config, tiny_lm
from tests.parity.test_gpu_engine import on_gpu

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

FAMILIES = ["llama", "qwen3", "gemma2", "gemma3"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ROLLOUTS = [Rollout(tuple(range(20 + 9 * i, 20 + 11 * i))) for i in range(5)]


def gradients(engine: Engine, lm: LM) -> torch.Tensor:
    layouts = layouts_of(lm, len(ROLLOUTS))
    position = Position(0, 3, layouts.prompt_ids)
    config = small_config(temperature=0.5)
    return example_gradients(engine, layouts, ROLLOUTS, position, config).cpu()


def by_reasonings(engine: Engine, lm: LM, reasonings: str) -> torch.Tensor:
    """Of three reasonings a row, right and wrong ones, as they are stored or as they are drawn."""
    layouts = layouts_of(lm, len(ROLLOUTS))
    rows = [
        [Reasoning((*r.reasoning_ids, 30 + n), (row + n) % 2 == 0, None) for n in range(3)]
        for row, r in enumerate(ROLLOUTS)
    ]
    position = Position(0, 3, layouts.prompt_ids)
    config = small_config(gradient="reasoning", reasonings=reasonings)
    return reasoning_gradients(engine, layouts, rows, position, config).cpu()


# Of an answer's gradient, and of the two of reasonings, whose rows are summed in a fixed order.
KINDS = {
    "answer": gradients,
    "stored": partial(by_reasonings, reasonings="stored"),
    "sampled": partial(by_reasonings, reasonings="sampled"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_cpus(family: str, kind: str) -> None:
    cpu, lm = tiny_lm(family), on_gpu(family, "llama3")
    assert choose_attention(lm) == "triton"
    expected = KINDS[kind](PlainRolloutEngine(cpu), cpu)
    assert expected.abs().max() > 1e-3
    for engine in (RolloutEngine(lm, kv_cache_bytes=1 << 24), PlainRolloutEngine(lm)):
        torch.testing.assert_close(KINDS[kind](engine, lm), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_bits_again(family: str, kind: str, dtype: torch.dtype) -> None:
    lm = on_gpu(family, "llama3", dtype)
    engine = PlainRolloutEngine(lm)
    assert engine.can_pack
    assert check_gradient(engine) == ()
    first = KINDS[kind](engine, lm)
    for _ in range(5):
        assert torch.equal(KINDS[kind](engine, lm), first)


def test_torch_may_be_forced_and_a_note_says_what_that_means() -> None:
    lm = on_gpu("llama", "llama3")
    engine = PlainRolloutEngine(lm, kernels="reference")
    assert engine.can_pack
    (note,) = check_gradient(engine, "reference")
    assert "last bits may differ" in note
