"""What attention asks for far from the start, without a sequence that is as long."""

from typing import Any

import pytest
import torch

from greater_fast.model.attention import far as far_attention
from greater_fast.model.attention.far import far_obstacle, named_lengths
from greater_fast.model.lm import LM, load_lm
from tests.cases import tiny_lm, tokenizer
from tests.tiny import tiny_model
from tests.zoo.models import WINDOW, zoo_model


def zoo_lm(name: str) -> LM:
    return load_lm((zoo_model(name, len(tokenizer("llama3"))), tokenizer("llama3")))


@pytest.mark.parametrize(
    "family", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"]
)
def test_windows_that_attention_is_told_of_are_no_obstacle(family: str) -> None:
    assert far_obstacle(tiny_lm(family)) is None


@pytest.mark.parametrize(("name", "layer"), [("phimoe", 0), ("qwen2_moe", 1), ("llama4_text", 0)])
def test_a_window_or_chunk_in_the_mask_alone_is_found(name: str, layer: int) -> None:
    lm = zoo_lm(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm.model.config, "max_position_embeddings", 10**6)
        reason = str(far_obstacle(lm))
    assert f"at token {WINDOW - 2} the mask of layer {layer} hides other tokens" in reason


def test_a_length_that_no_sequence_reaches_is_no_obstacle() -> None:
    lm = zoo_lm("phimoe")
    assert far_obstacle(lm, WINDOW) is None
    assert far_obstacle(lm, WINDOW + 1) is not None


def test_a_window_that_no_field_names_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = zoo_lm("phimoe")
    monkeypatch.setattr(far_attention, "named_lengths", lambda _: [])
    assert "at token 252 the mask of layer 0 hides other tokens" in str(far_obstacle(lm))
    assert "at token 96 the mask of layer 0 hides other tokens" in str(far_obstacle(lm, 100))
    assert far_obstacle(lm, WINDOW) is None
    assert far_obstacle(tiny_lm("mistral")) is None


def test_what_depends_on_more_than_the_position_is_found(own_lm: LM) -> None:
    """A layer that asks for something else as soon as there is a cache, at a far token alone."""
    attention = own_lm.model.model.layers[1].self_attn
    own = attention.forward

    def warmer(hidden_states: torch.Tensor, **options: Any) -> Any:
        cache = options.get("past_key_values")
        far = cache is not None and cache.get_seq_length() > 100
        return own(hidden_states=hidden_states * (3.0 if far else 1.0), **options)

    attention.forward = warmer
    own_lm.model.config.attention_chunk_size = 128
    assert far_obstacle(own_lm) == (
        "at token 126 the queries and keys of layer 1 depend on more than the tokens and their "
        "positions"
    )
    assert far_obstacle(own_lm, 100) is None


def test_the_model_is_left_as_it_was() -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    model = tiny_model("mistral", len(tokenizer("llama3")))
    lm, known = load_lm((model, tokenizer("llama3"))), set(ALL_MASK_ATTENTION_FUNCTIONS)
    before = model.config.to_dict(), model.config._attn_implementation
    assert far_obstacle(lm) is None
    assert (model.config.to_dict(), model.config._attn_implementation) == before
    assert set(ALL_MASK_ATTENTION_FUNCTIONS) == known


def test_another_model_may_be_tried_meanwhile() -> None:
    """As from another thread, before this one's masks are made: they share what is registered."""
    lm, other = zoo_lm("phimoe"), tiny_lm("mistral")
    alone, meanwhile = far_obstacle(lm), []
    hook = lm.model.get_input_embeddings().register_forward_pre_hook(
        lambda *_: meanwhile.append(far_obstacle(other))
    )
    try:
        assert far_obstacle(lm) == alone is not None
    finally:
        hook.remove()
    assert meanwhile
    assert set(meanwhile) == {None}


class Named:
    """A configuration with fields."""

    def __init__(self, **fields: Any) -> None:
        self.to_dict = lambda: fields


def test_lengths_are_found_by_the_names_of_fields() -> None:
    config = Named(
        sliding_window=4096,
        attention_chunk_size=8192,
        window_size=[33, None],
        hidden_size=512,
        use_sliding_window=True,
        max_window_layers=28,
        rope_parameters={"factor": 64, "original_max_position_embeddings": 2048},
        index_topk=32,
    )
    assert named_lengths(config) == [33, 2048, 4096, 8192]
