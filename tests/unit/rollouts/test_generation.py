"""`generate` in batches that change no row: tried, and the fastest way that is right is taken."""

from typing import Any

import pytest
import torch

from greater_fast.config import Config
from greater_fast.engine import RolloutRequest
from greater_fast.model.lm import LM
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.choose import make_engine
from greater_fast.rollouts.generation import Way, choose_way
from greater_fast.rollouts.plain import PlainRolloutEngine
from greater_fast.texts.generation import check_length
from tests.cases import plain_logits, tiny_lm
from tests.unit.model.attention.test_far_attention import zoo_lm

END = frozenset([1])
PROMPTS = [
    tuple((11 * i * i + k) % 1100 + 5 for i in range(n)) for k, n in enumerate((4, 61, 4, 57))
]


def own_greedy(lm: LM, ids: tuple[int, ...], limit: int) -> tuple[int, ...]:
    found: list[int] = []
    while len(found) < limit:
        found.append(int(plain_logits(lm, [*ids, *found])[-1].argmax()))
        if found[-1] in END:
            return tuple(found[:-1])
    return tuple(found)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("gpt_neo", Way()),
        ("bart", Way(padded=False)),
        ("phi3 with long RoPE", Way(padded=False, cached=False)),
        ("llama with dynamic RoPE", Way(padded=False, cached=False)),
        ("llama4_text", Way(padded=False)),
    ],
)
def test_rows_are_those_of_the_model_alone(name: str, way: Way) -> None:
    """Across the length at which a long RoPE changes its factors (64), too."""
    lm = zoo_lm(name)
    engine = PlainRolloutEngine(lm)
    assert engine.way == way
    found = engine.run([RolloutRequest(ids, 10, END) for ids in PROMPTS])
    assert [r.reasoning_ids for r in found if r] == [own_greedy(lm, ids, 10) for ids in PROMPTS]


@pytest.mark.parametrize("name", ["bart", "phi3 with long RoPE", "gpt_neo"])
def test_samples_do_not_depend_on_the_batch(name: str) -> None:
    lm = zoo_lm(name)
    asked = [RolloutRequest(ids, 8, END, sample_key=i) for i, ids in enumerate(PROMPTS)]
    engine = PlainRolloutEngine(lm, sampling_temperature=1.0, seed=3)
    together = [r.reasoning_ids for r in engine.run(asked) if r]
    alone = [r.reasoning_ids for one in asked for r in engine.run([one]) if r]
    assert together == alone
    assert together != [own_greedy(lm, ids, 8) for ids in PROMPTS]


def test_tokens_are_counted_as_they_go_through() -> None:
    for name in ("bart", "phi3 with long RoPE"):
        lm = zoo_lm(name)
        engine = PlainRolloutEngine(lm)
        counted: list[int] = []
        hook = lm.model.get_input_embeddings().register_forward_pre_hook(
            lambda _, inputs, counted=counted: counted.append(inputs[0].numel())
        )
        engine.run([RolloutRequest(ids, 7, frozenset([1199])) for ids in PROMPTS])
        hook.remove()
        assert engine.num_forward_tokens == sum(counted)


def test_a_long_rope_is_paged_within_its_first_length() -> None:
    lm = zoo_lm("phi3 with long RoPE")
    made, note = make_engine(lm, Config(kv_cache_bytes=1 << 22), longest_sequence=64)
    assert isinstance(made, RolloutEngine)
    assert note.startswith("engine: paged")
    assert made.can_pack
    (found,) = made.run([RolloutRequest(PROMPTS[0], 50, END)])
    assert found is not None
    assert found.reasoning_ids == own_greedy(lm, PROMPTS[0], 50)
    assert choose_way(lm, 64) == Way()
    open_ended, _ = make_engine(lm, Config(kv_cache_bytes=1 << 22))  # for whatever comes
    assert open_ended.run([RolloutRequest(PROMPTS[0], 50, END)]) == [found]
    assert open_ended.max_sequence_tokens == 64
    with pytest.raises(ValueError, match=r"59 behind them .* 64 of a sequence that .* slower"):
        check_length(open_ended, 6, 59, "text 0")
    with pytest.raises(ValueError, match="make the engine for longer ones"):
        open_ended.run([RolloutRequest(PROMPTS[0], 64, END)])
    made, note = make_engine(lm, Config(kv_cache_bytes=1 << 22), longest_sequence=65)
    assert isinstance(made, PlainRolloutEngine)
    assert note.endswith(
        "; rows of one length at a time, without a cache, each token costs its whole sequence"
    )


def test_a_model_that_no_way_gets_right_is_refused(own_lm: LM) -> None:
    """Its forward pass of one row is random: nothing can be compared with it."""
    own = own_lm.model.model.forward
    generator = torch.Generator().manual_seed(0)

    def noisy(*args: Any, **options: Any) -> Any:
        output = own(*args, **options)
        shape = output.last_hidden_state.shape
        output.last_hidden_state = torch.randn(shape, generator=generator)
        return output

    own_lm.model.model.forward = noisy
    with pytest.raises(ValueError, match="cannot be run by generate: what it generates differs"):
        choose_way(own_lm)


def test_what_generate_raises_is_put_into_a_sentence(own_lm: LM) -> None:
    def fails(**_: Any) -> Any:
        raise KeyError("plan")

    own_lm.model.generate = fails
    with pytest.raises(ValueError, match="cannot be run by generate: it ends in KeyError: 'plan'"):
        choose_way(own_lm)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "settings", [{"kernels": "reference"}, {"engine": "paged"}, {"engine": "generate"}], ids=str
)
def test_a_text_without_a_target_is_not_written_from_logits_that_are_not_finite(
    settings: dict[str, Any], value: float, own_lm: LM
) -> None:
    """Nothing is scored, as in an evaluation: without a word the text would be id 0 to the end."""
    config = Config(max_new_tokens=8, sampling_temperature=1.0, **settings)
    engine, _ = make_engine(own_lm, config, 128)
    asked = [RolloutRequest(ids, 8, END, sample_key=i) for i, ids in enumerate(PROMPTS)]
    assert len(engine.run(asked)) == len(PROMPTS)
    own_lm.model.model.embed_tokens.weight.data[PROMPTS[2][-1]] = value
    with pytest.raises(FloatingPointError, match="logits of example 2 are not finite where text"):
        engine.run(asked)
    own_lm.model.model.embed_tokens.weight.data[PROMPTS[2][-1]] = 0.01
    assert len(engine.run(asked)) == len(PROMPTS)  # as good as new


def test_ways_say_what_they_are() -> None:
    assert str(Way()) == ""
    assert str(Way(padded=False)) == "rows of one length at a time"
    assert str(Way(padded=False, most=1)) == "one row at a time"
    assert Way(padded=False, most=1).groups([3, 3, 5]) == [[0], [1], [2]]
    assert Way(padded=False).groups([3, 5, 3]) == [[0, 2], [1]]
    assert Way().groups([3, 5, 3]) == [[0, 1, 2]]
    assert choose_way(tiny_lm()) == Way()
