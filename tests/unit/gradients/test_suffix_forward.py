"""Suffixes of several sequences in one row give the states of each sequence alone."""

from typing import Any

import pytest
import torch

from greater_fast.gradients.packing_trial import why_not
from greater_fast.gradients.segments import Segment
from greater_fast.gradients.suffix_forward import computed_prefixes, packed
from greater_fast.model.lm import LM, load_lm
from tests.cases import tiny_lm, tokenizer
from tests.tiny import tiny_model

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"]
SEQUENCES = [[(7 * i * i + k) % 1100 + 5 for i in range(n)] for k, n in enumerate((40, 3, 21))]
PLACES = [17, 1, 20]
READ = [(0, 5, 22), (1,), (0,)]


@pytest.fixture
def own_lm() -> LM:
    """A Llama of its own, to be damaged."""
    return load_lm((tiny_model("llama", len(tokenizer("llama3"))), tokenizer("llama3")))


def suffix_states(lm: LM, places: list[int], found: list[Any]) -> torch.Tensor:
    """States at READ of the suffixes, prefixes computed but for what was found."""
    contexts = [ids[:place] for ids, place in zip(SEQUENCES, places, strict=True)]
    prefixes = computed_prefixes(lm, contexts, found)
    assert [prefix.num_tokens for prefix in prefixes] == places
    segments = [
        Segment(len(ids) - place, prefix, rows)
        for ids, place, prefix, rows in zip(SEQUENCES, places, prefixes, READ, strict=True)
    ]
    suffixes = [i for ids, place in zip(SEQUENCES, places, strict=True) for i in ids[place:]]
    with torch.no_grad(), packed(lm, segments) as forward:
        return forward(lm.embed(torch.tensor(suffixes)))


def own_states(lm: LM) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat(
            [
                lm.hidden(input_ids=torch.tensor([ids]))[0, [place + row for row in rows]]
                for ids, place, rows in zip(SEQUENCES, PLACES, READ, strict=True)
            ]
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_each_sequence_alone(family: str) -> None:
    lm = tiny_lm(family)
    assert why_not(lm) is None
    found = suffix_states(lm, PLACES, [None] * 3)
    torch.testing.assert_close(found, own_states(lm), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3"])
def test_a_prefix_found_in_part_is_completed(family: str) -> None:
    lm = tiny_lm(family)
    parts = computed_prefixes(lm, [SEQUENCES[0][:9], SEQUENCES[2][:20]], [None, None])
    found = suffix_states(lm, PLACES, [parts[0], None, parts[1]])
    torch.testing.assert_close(found, own_states(lm), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_low_precision(family: str) -> None:
    model = tiny_model(family, len(tokenizer("llama3")), torch.bfloat16)
    assert why_not(load_lm((model, tokenizer("llama3")))) is None


def test_the_model_is_left_as_it_was(own_lm: LM) -> None:
    before = own_lm.model.config._attn_implementation
    mlp = own_lm.model.get_decoder().layers[-1].mlp
    segments = [Segment(5, None, (2,))]
    with packed(own_lm, segments):
        assert own_lm.model.config._attn_implementation != before
        assert mlp._forward_hooks
    with pytest.raises(RuntimeError, match="must match"), packed(own_lm, segments) as forward:
        forward(torch.zeros(0))
    assert own_lm.model.config._attn_implementation == before
    assert not mlp._forward_hooks
    assert not mlp._forward_pre_hooks


def damage_rope(lm: LM) -> None:
    lm.model.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}


def damage_arguments(lm: LM) -> None:
    attention = lm.model.model.layers[0].self_attn
    own = attention.forward
    attention.forward = lambda *args, **options: own(*args, **options, s_aux=1.0)


def damage_attention(lm: LM) -> None:
    """One layer mixes tokens without asking for attention."""

    def forward(hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
        return hidden_states.cumsum(1), None

    lm.model.model.layers[1].self_attn.forward = forward


def damage_last_mlp(lm: LM) -> None:
    """The last MLP looks at more than a row."""
    mlp = lm.model.model.layers[-1].mlp
    own = mlp.forward
    mlp.forward = lambda states: own(states - states.mean(1, keepdim=True))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_rope, "rotary embedding depends on the length"),
        (damage_arguments, "its attention takes what is not understood here: s_aux"),
        (damage_attention, "1 of its 2 layers use the attention interface"),
        (damage_last_mlp, "differs from its own"),
    ],
)
def test_a_model_that_would_go_wrong_is_found_out(own_lm: LM, damage: Any, reason: str) -> None:
    damage(own_lm)
    assert reason in str(why_not(own_lm))


def test_other_examples_are_not_seen() -> None:
    lm = tiny_lm("gemma2")
    embedded = lm.embed(torch.tensor(SEQUENCES[0]))
    damaged = torch.cat([embedded[:12], torch.full_like(embedded[12:], torch.nan)])
    segments = [Segment(12, None, (3, 11)), Segment(28, None, (27,))]
    with torch.no_grad(), packed(lm, segments) as forward:
        clean, poisoned = forward(embedded), forward(damaged)
    assert torch.equal(clean[:2], poisoned[:2])
    assert poisoned[2].isnan().all()
