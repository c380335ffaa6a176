"""Sizes told from a configuration, beside those of real tensors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaConfig

from greater_fast.gradients.packed_row import Segment
from greater_fast.gradients.suffix_forward import packed
from greater_fast.memory.outline import outline_lm, outline_with_ends
from greater_fast.memory.shapes import ModelShapes, _bits
from greater_fast.model.kv_cache import BLOCK_SIZE, KVCache, block_bytes
from greater_fast.model.lm import LM, load_lm
from tests.tiny import tiny_model, tiny_tokenizer
from tests.unit.model.test_lm_gguf import file as gguf_file  # noqa: F401 (a fixture

FAMILIES = ["llama", "gemma2", "qwen2", "qwen3"]
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads weights fails."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    monkeypatch.setattr("greater_fast.model.smollm2._convert", fail)


@pytest.fixture(params=[(f, d) for f in FAMILIES for d in DTYPES], ids=str)
def loaded(request: pytest.FixtureRequest, tokenizer: Any) -> LM:
    family, dtype = request.param
    return load_lm((tiny_model(family, len(tokenizer), dtype=dtype), tokenizer))


def test_the_weights_are_those_of_the_model(loaded: LM, tmp_path: Path) -> None:
    """Shared ones once (Gemma ties its embeddings): counted by where they lie in memory."""
    storages = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes()
        for p in (*loaded.model.parameters(), *loaded.model.buffers())
    }
    assert ModelShapes.of(loaded).weight_bytes == sum(storages.values())
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    dtype = str(loaded.dtype).removeprefix("torch.")
    again = load_lm(str(tmp_path), device="cpu", dtype=dtype)
    assert ModelShapes.of(outline_lm(str(tmp_path), "cuda", dtype)) == ModelShapes.of(again)


def test_keys_and_values_are_those_of_the_pool(loaded: LM) -> None:
    token = ModelShapes.of(loaded).kv_token_bytes
    assert token * BLOCK_SIZE == block_bytes(loaded)
    assert token * BLOCK_SIZE * 3 == sum(pool.nbytes for pool in KVCache(loaded, 3).pools)


@pytest.mark.usefixtures("no_weights")
def test_no_weights_are_read(model_folder: Path, lm: LM) -> None:
    outline = outline_lm(model_folder, "cpu")
    assert {p.device.type for p in outline.model.parameters()} == {"meta"}
    assert (outline.dtype, outline.vocab_size) == (torch.float32, lm.vocab_size)
    assert outline.max_context == lm.max_context
    assert outline_lm(model_folder, "cuda").dtype == torch.bfloat16
    assert outline_lm(model_folder, "cuda", "float16").dtype == torch.float16
    assert outline_lm(lm, "cuda") is lm


@pytest.mark.usefixtures("no_weights")
def test_what_ends_a_turn_is_known_without_weights(model_folder: Path, lm: LM) -> None:
    assert outline_with_ends(model_folder, "cpu").end_ids == lm.end_ids
    assert outline_with_ends(lm, "cpu") is lm


@pytest.mark.usefixtures("no_weights")
def test_a_gguf_file_and_the_demonstration_model(
    gguf_file: Path,  # noqa: F811
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    outline = outline_lm(gguf_file, "cpu")
    assert outline.dtype == torch.float32
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr("greater_fast.model.smollm2.smollm2_gguf", lambda: gguf_file)
    shapes = ModelShapes.of(outline_lm("smollm2-135m", "cpu"))
    assert shapes == ModelShapes.of(outline)
    assert not list(tmp_path.glob(".cache/*"))  # nothing is converted
    made = tmp_path / ".cache" / "greater_fast" / "smollm2-135m"
    made.parent.mkdir(parents=True)
    made.symlink_to(model_folder)
    assert outline_lm("smollm2-135m", "cpu").max_context == 512
    monkeypatch.undo()
    assert shapes == ModelShapes.of(load_lm(gguf_file, device="cpu"))


@pytest.mark.parametrize("name", ["missing.gguf", "nothing/here"])
def test_a_model_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        outline_lm(name, "cpu")


def kept_bytes(
    lm: LM, num_tokens: int, forward: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> int:
    """What autograd keeps of a forward pass, weights aside, each piece of memory once.

    The pass is of embeddings [M, D], by default the model's own.
    """
    weights = {p.untyped_storage().data_ptr() for p in lm.model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    forward = forward or (lambda embedded: lm.hidden(inputs_embeds=embedded[None]))
    embedded = lm.embed(torch.arange(num_tokens) % lm.vocab_size).detach().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = forward(embedded)
    assert states.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "inner"), [(4, 256), (8, 96)])
def test_activations_are_estimated_well_and_not_under(
    tokenizer: Any, dtype: torch.dtype, heads: int, inner: int
) -> None:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=inner,
        num_hidden_layers=5,
        num_attention_heads=heads,
        num_key_value_heads=2,
        eos_token_id=1,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype)
    lm = load_lm((model, tokenizer))
    made_again = 5 * 96 * inner * dtype.itemsize  # outputs of the activation functions
    kept = kept_bytes(lm, 96) - made_again
    estimate = ModelShapes.of(lm).activation_bytes(96)
    assert kept <= estimate <= 1.5 * kept


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma2", "gemma3"])
def test_more_norms_are_not_estimated_under(family: str, dtype: torch.dtype) -> None:
    """Gemma has four a layer, and Gemma 3 and Qwen 3 norms of queries and keys beside them."""
    tokenizer = tiny_tokenizer("sentencepiece" if family.startswith("gemma") else "llama3")
    lm = load_lm((tiny_model(family, len(tokenizer), dtype=dtype), tokenizer))
    shapes = ModelShapes.of(lm)
    made_again = sum(96 * layer.inner * dtype.itemsize for layer in shapes.layers)
    with packed(lm, [Segment(96, None, range(96))]) as forward:
        kept = kept_bytes(lm, 96, forward) - made_again
    assert kept <= shapes.activation_bytes(96) <= 1.6 * kept


EXPERTS: dict[str, dict[str, int]] = {
    "mixtral": {"intermediate_size": 32, "num_local_experts": 8},
    "granitemoeshared": {
        "intermediate_size": 32,
        "num_local_experts": 8,
        "shared_intermediate_size": 128,
    },
    "qwen2_moe": {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 128},
    "ernie4_5_moe": {
        "moe_intermediate_size": 32,
        "moe_num_experts": 8,
        "moe_k": 4,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 0,
    },
}


@pytest.mark.parametrize("kind", EXPERTS)
def test_experts_are_not_estimated_under(tokenizer: Any, kind: str) -> None:
    sizes = {"intermediate_size": 96, "num_experts": 8, "num_experts_per_tok": 4, **EXPERTS[kind]}
    config = CONFIG_MAPPING[kind](
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        **sizes,
        eos_token_id=1,
        pad_token_id=0,
    )
    lm = load_lm((AutoModelForCausalLM.from_config(config, attn_implementation="sdpa"), tokenizer))
    shapes = ModelShapes.of(lm)
    made_again = sum(96 * layer.inner * shapes.itemsize for layer in shapes.layers)
    kept = kept_bytes(lm, 96) - made_again
    assert kept <= shapes.activation_bytes(96) <= 1.5 * kept


def test_checkpointing_keeps_layer_inputs_and_one_layer(lm: LM) -> None:
    shapes = ModelShapes.of(lm)
    layer = shapes.activation_bytes(10) // shapes.num_layers
    inputs = 10 * shapes.num_layers * shapes.width * shapes.itemsize
    assert shapes.activation_bytes(10, checkpointing=True) == inputs + layer
    assert shapes.activation_bytes(0) == shapes.activation_bytes(0, checkpointing=True) == 0


def test_fewer_bits(lm: LM) -> None:
    """Linear layers but for the head shrink to 4 bits and a share of their scales."""
    shapes, model = ModelShapes.of(lm), lm.model
    linears = sum(
        module.weight.numel()
        for layer in model.model.layers
        for module in layer.modules()
        if isinstance(module, torch.nn.Linear)
    )
    assert shapes.linear_bytes == 4 * linears
    assert shapes.in_4_bits().weight_bytes == shapes.weight_bytes - 4 * linears + linears * 9 // 16
    half = shapes.in_16_bits()
    assert (half.weight_bytes, half.itemsize) == (shapes.weight_bytes // 2, 2)
    assert half.kv_token_bytes == shapes.kv_token_bytes // 2


@pytest.mark.parametrize(
    ("settings", "bits"),
    [
        (None, None),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}, 8),
        ({"quant_method": "gptq", "bits": 3}, 3),
        ({"quant_method": "torchao", "quant_type": "int4_weight_only"}, 4),
        ({"quant_method": "torchao", "quant_type": "Int8DynamicActivationInt4WeightConfig"}, 4),
        ({"quant_method": "torchao", "quant_type": "int8_dynamic_activation_int8_weight"}, 8),
        ({"quant_method": "fp8"}, 8),
        ({"quant_method": "unknown"}, None),
    ],
)
def test_bits_of_a_quantised_checkpoint(settings: Any, bits: int | None) -> None:
    assert _bits(settings) == bits


@pytest.mark.parametrize(("capability", "bits"), [((8, 6), None), ((8, 9), 8), ((9, 0), 8)])
def test_a_card_that_cannot_multiply_in_8_bits_gets_16(
    capability: tuple[int, int], bits: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As transformers then makes the weights."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert _bits({"quant_method": "fp8"}) == bits


def test_a_quantised_checkpoint_is_smaller(model_folder: Path, lm: LM) -> None:
    outline = outline_lm(model_folder, "cpu")
    outline.model.config.quantization_config = {"load_in_4bit": True}
    small, full = ModelShapes.of(outline), ModelShapes.of(lm)
    assert small.weight_bytes == full.in_4_bits().weight_bytes
    assert small.linear_bytes == 0


@pytest.mark.parametrize("name", ["llm_int8_skip_modules", "modules_to_not_convert"])
def test_what_a_quantised_checkpoint_keeps_whole_counts_so(model_folder: Path, name: str) -> None:
    outline = outline_lm(model_folder, "cpu")
    outline.model.config.quantization_config = {"load_in_4bit": True}
    all_packed = ModelShapes.of(outline).weight_bytes
    outline.model.config.quantization_config[name] = ["lm_head", "layers.1.mlp", "k_proj"]
    kept = [
        module.weight.numel()
        for path, module in outline.model.named_modules()
        if isinstance(module, torch.nn.Linear) and (".1.mlp." in path or path.endswith("k_proj"))
    ]
    more = ModelShapes.of(outline).weight_bytes - all_packed
    assert len(kept) > 3
    assert more == pytest.approx(sum(kept) * (4 - 4.5 / 8), rel=1e-3)
    outline.model.config.quantization_config[name] = None
    assert ModelShapes.of(outline).weight_bytes == all_packed
