"""What configurations say of their layers, in all the ways in which they say it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from greater_fast.api import plan
from greater_fast.memory.outline import outline_lm
from greater_fast.memory.shapes import ModelShapes
from greater_fast.model.checks import UnsupportedModelError
from greater_fast.model.kv_cache import BLOCK_SIZE, KVCache, block_bytes
from greater_fast.model.layers import LayerShape, layer_config, layer_shapes
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.paged import usable_backend
from tests.tiny import PROMPT

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "vocab_size": 1200,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
}
SMALL: dict[str, dict[str, Any]] = {
    "gemma4_text": {
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "global_head_dim": 32,
        "hidden_size_per_layer_input": 16,
        "vocab_size_per_layer_input": 1200,
    },
    "gemma3n_text": {
        "intermediate_size": [96, 64, 32],
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "num_kv_shared_layers": 1,
        "hidden_size_per_layer_input": 16,
        "vocab_size_per_layer_input": 1200,
        "activation_sparsity_pattern": [0.0, 0.0, 0.0],
        "laurel_rank": 8,
        "altup_num_inputs": 2,
    },
    "mamba": {"state_size": 8, "intermediate_size": 128},
    "falcon_mamba": {"state_size": 8, "intermediate_size": 128},
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 16, "n_groups": 2, "chunk_size": 16},
    "rwkv": {"attention_hidden_size": 64},
    "mimo_v2_flash": {
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "layer_types": ["full_attention"] * 3,
        "mlp_layer_types": ["dense"] * 3,
    },
    "minicpm3": LATENT,
    "falcon_h1": {"mamba_d_ssm": 128, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8},
    "jamba": {"attn_layer_period": 3, "attn_layer_offset": 2, "mamba_d_state": 8, "num_experts": 1},
}


def small_config(kind: str, **changes: Any) -> Any:
    """A small model's configuration, with the sizes that its kind has."""
    own = CONFIG_MAPPING[kind]()
    names = {*dir(own), *own.attribute_map} - ({"head_dim"} if kind == "falcon" else set())
    sizes = {name: size for name, size in SIZES.items() if name in names}
    return CONFIG_MAPPING[kind](**{**sizes, **SMALL.get(kind, {}), **changes})


def small_lm(kind: str, tokenizer: Any) -> LM:
    torch.manual_seed(0)
    return load_lm((AutoModelForCausalLM.from_config(small_config(kind)).float(), tokenizer))


def of_llama(**sizes: int) -> LayerShape:
    own = {"num_heads": 4, "num_kv_heads": 2, "key_size": 16, "value_size": 16, "inner": 96}
    return LayerShape(**{**own, **sizes})


def test_plain_numbers() -> None:
    assert layer_shapes(small_config("llama")) == (of_llama(),) * 3


def test_layers_that_differ() -> None:
    assert layer_shapes(small_config("gemma4_text")) == (
        of_llama(),
        of_llama(),
        of_llama(key_size=32, value_size=32),
    )
    inner = [layer.inner for layer in layer_shapes(small_config("gemma3n_text"))]
    assert inner == [96, 64, 32]
    assert layer_config(small_config("gemma4_text"), 2).head_dim == 32
    assert layer_config(small_config("llama"), 2).head_dim == 16


def test_a_list_of_head_counts() -> None:
    config = small_config("llama")
    config.num_attention_heads_per_layer = [4, 2, 1]
    heads = [(layer.num_heads, layer.num_kv_heads) for layer in layer_shapes(config)]
    assert heads == [(4, 2), (2, 2), (1, 1)]


def test_layers_without_attention() -> None:
    for kind in ("mamba", "falcon_mamba", "mamba2"):
        (layer, *_) = layer_shapes(small_config(kind))
        assert (layer.num_heads, layer.kv_numbers, layer.inner, layer.state_size) == (0, 0, 128, 8)
    assert sum(layer.kv_numbers for layer in layer_shapes(small_config("rwkv"))) == 0
    jamba = layer_shapes(small_config("jamba"))
    assert [layer.kv_numbers > 0 for layer in jamba] == [False, False, True]
    assert [layer.state_size for layer in jamba] == [8, 8, 0]
    assert all(layer.state_size == 8 for layer in layer_shapes(small_config("falcon_h1")))


def test_keys_of_two_parts() -> None:
    (layer, *_) = layer_shapes(small_config("minicpm3"))
    assert (layer.num_kv_heads, layer.key_size, layer.value_size) == (4, 24, 16)
    assert (layer.kv_numbers, layer.cached_numbers) == (4 * (24 + 16), 16 + 8)


def test_a_decoder_beside_an_encoder() -> None:
    config = CONFIG_MAPPING["bart"](
        d_model=64, encoder_layers=1, encoder_attention_heads=2, decoder_layers=3
    )
    config.decoder_attention_heads, config.decoder_ffn_dim = 4, 96
    assert layer_shapes(config) == (of_llama(num_kv_heads=4),) * 3


def test_experts_that_a_token_goes_through() -> None:
    mixtral = layer_shapes(small_config("mixtral"))
    assert {layer.inner for layer in mixtral} == {2 * 96}
    config = small_config("qwen3_moe")
    config.moe_intermediate_size, config.num_experts_per_tok = 80, 4
    assert {layer.inner for layer in layer_shapes(config)} == {4 * 80}


CACHED = [
    *("llama", "gemma2", "gemma3_text", "gemma4_text", "qwen3", "phi3", "mixtral", "gpt2", "opt"),
    *("minicpm3", "jamba", "falcon_h1", "starcoder2", "stablelm", "gpt_bigcode", "lfm2", "bloom"),
]


@pytest.mark.parametrize("kind", [*CACHED, "falcon", "new falcon"])
def test_what_is_kept_of_a_token_is_what_transformers_keeps(kind: str) -> None:
    changes = {"falcon": {}, "new falcon": {"new_decoder_architecture": True, "num_kv_heads": 2}}
    config = small_config(kind.removeprefix("new "), **changes.get(kind, {}))
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        kept = model(torch.arange(5, 13)[None], use_cache=True).past_key_values
    tensors = [getattr(layer, name, None) for layer in kept.layers for name in ("keys", "values")]
    numbers = sum(tensor.numel() for tensor in tensors if isinstance(tensor, torch.Tensor))
    shapes = layer_shapes(model.config)
    assert 8 * sum(layer.cached_numbers for layer in shapes) == numbers > 0


def test_a_configuration_that_names_no_layers() -> None:
    text = "a model of the kind blt is not supported: it names no num_hidden_layers"
    with pytest.raises(ValueError, match=text):
        layer_shapes(CONFIG_MAPPING["blt"]())


@pytest.mark.parametrize("kind", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_every_kind_as_published(kind: str) -> None:
    """Shapes are told, or it is said in words why not."""
    try:
        config = CONFIG_MAPPING[kind]().get_text_config()
    except Exception as error:
        pytest.skip(f"its configuration has no defaults that go together: {error}")
    try:
        layers = layer_shapes(config)
    except ValueError as error:
        assert f"a model of the kind {config.model_type} is not supported" in str(error)  # noqa: PT017
        return
    assert layers
    for layer in layers:
        assert layer.inner > 0
        assert (layer.num_heads == 0) == (layer.num_kv_heads == 0)
        assert layer.num_heads == 0 or (layer.key_size > 0 and layer.value_size > 0)


@pytest.mark.parametrize("kind", sorted(SMALL))
def test_they_are_planned_for(
    kind: str, tokenizer: Any, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    small_config(kind).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    shapes = ModelShapes.of(outline_lm(tmp_path, "cpu"))
    assert shapes.num_layers == 3
    for engine in ("auto", "generate"):
        found = plan(tmp_path, rows, prompt=PROMPT, config={**settings, "engine": engine})
        assert found.fits
        assert (found.pool_bytes is None) == (engine == "generate" or not shapes.kv_token_bytes)
        recurrent = any(layer.num_heads == 0 or layer.state_size for layer in shapes.layers)
        assert ("roughly" in found.needs[1].how) == recurrent


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("mamba", "it has recurrent layers, whose state is no keys and values"),
        ("jamba", "it has recurrent layers, whose state is no keys and values"),
        ("falcon_h1", "it has recurrent layers, whose state is no keys and values"),
        ("minicpm3", "it has multi-head latent attention, whose cache is no keys"),
        ("mimo_v2_flash", "its keys have 16 numbers a head and its values 8, where a block"),
    ],
)
def test_why_they_have_no_pool(kind: str, text: str, tokenizer: Any) -> None:
    lm = small_lm(kind, tokenizer)
    with pytest.raises(UnsupportedModelError) as caught:
        KVCache(lm, 2)
    assert text in str(caught.value)
    with pytest.raises(UnsupportedModelError) as caught:
        usable_backend(lm)
    assert text in str(caught.value)
    assert "use engine='generate'" in str(caught.value)


def test_layers_of_several_shapes_have_a_pool_for_each(tokenizer: Any) -> None:
    """A block is one of all of them: its bytes, its copies."""
    lm = small_lm("gemma4_text", tokenizer)
    cache = KVCache(lm, 3, poisoned=True)
    assert [tuple(pool.shape) for pool in cache.pools] == [
        (2, 2, 3, 2, BLOCK_SIZE, 16),
        (1, 2, 3, 2, BLOCK_SIZE, 32),
    ]
    assert sum(pool.nbytes for pool in cache.pools) == 3 * block_bytes(lm)
    assert all(pool.isnan().all() for pool in cache.pools)
    for layer in range(3):
        for number, tensor in enumerate(cache.layer(layer)):
            assert tensor.is_contiguous()
            tensor[1] = 10 * layer + number
    cache.copy(torch.tensor([[1, 2]]))
    for layer in range(3):
        for number, tensor in enumerate(cache.layer(layer)):
            assert (tensor[1:] == 10 * layer + number).all()
            assert tensor[0].isnan().all()
    assert usable_backend(lm) == "csrc"
