"""A GGUF file as llama.cpp writes it: small, made here, and read as any other model."""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from greater_fast.model.attention.gguf_rotary import complete_attention
from greater_fast.model.lm import load_lm
from tests.cases import plain_logits, tiny_lm
from tests.tiny import END_ID

LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def permuted(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rotary halves interleaved, as the format has them."""
    halves = weight.reshape(num_heads, 2, weight.shape[0] // num_heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(weight.shape)


@dataclass(frozen=True)
class Scaling:
    """What a file says of rotary embeddings, scaled by fields or by tensors, and other fields."""

    fields: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, list[float]] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)
    base: float = 10000.0


def scaled_logits(rope: dict[str, Any], ids: list[int]) -> torch.Tensor:
    """Those of the tiny model with other rotary embeddings."""
    model = copy.deepcopy(tiny_lm().model)
    model.config.rope_parameters = {"rope_theta": 10000.0, **rope}
    model.model.rotary_emb = type(model.model.rotary_emb)(config=model.config)
    found: torch.Tensor = model(torch.tensor([ids])).logits[0]
    return found


def llama3_factors(factor: float) -> list[float]:
    """What transformers divides each frequency of the tiny model by."""
    plain = copy.deepcopy(tiny_lm().model.config)
    plain.rope_parameters = {"rope_theta": 10000.0, **LLAMA3, "factor": factor}
    inverse, _ = ROPE_INIT_FUNCTIONS["llama3"](plain, torch.device("cpu"))
    size = 2 * len(inverse)
    return [float(10000.0 ** (-2 * i / size) / inverse[i]) for i in range(len(inverse))]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def write(path: Path, without: str = "", scaled: Scaling | None = None) -> Path:
    """The tiny model as a GGUF file, without one of its weights, its rotary embeddings scaled."""
    gguf = pytest.importorskip("gguf")
    lm = tiny_lm()
    config, weights = lm.model.config, lm.model.state_dict()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(scaled.base if scaled else 10000.0)
    writer.add_vocab_size(config.vocab_size)
    for name, number in (scaled.others if scaled else {}).items():
        writer.add_uint32(f"llama.{name}", number)
    for name, value in (scaled.fields if scaled else {}).items():
        add = writer.add_string if isinstance(value, str) else writer.add_float32
        add(f"llama.rope.scaling.{name}", value)
    for name, factors in (scaled.tensors if scaled else {}).items():
        writer.add_tensor(name, np.array(factors, np.float32))

    model = json.loads(lm.tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    special = set(lm.tokenizer.added_tokens_decoder)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    kinds = gguf.TokenType
    writer.add_token_types(
        [kinds.CONTROL if i in special else kinds.NORMAL for i in range(len(tokens))]
    )
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(END_ID)
    writer.add_chat_template(lm.tokenizer.chat_template)

    heads = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k"}
    names = {
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    counts = (config.num_attention_heads, config.num_key_value_heads)
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"].numpy())
    writer.add_tensor("output.weight", weights["lm_head.weight"].numpy())
    for layer in range(config.num_hidden_layers):
        own, theirs = f"model.layers.{layer}", f"blk.{layer}"
        for (name, short), count in zip(heads.items(), counts, strict=True):
            weight = permuted(weights[f"{own}.{name}.weight"], count)
            writer.add_tensor(f"{theirs}.{short}.weight", weight.contiguous().numpy())
        for name, short in names.items():
            if f"{theirs}.{short}" == without:
                continue
            writer.add_tensor(f"{theirs}.{short}.weight", weights[f"{own}.{name}.weight"].numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file(file: Path) -> None:
    lm = load_lm(file, device="cpu")
    assert (lm.name, lm.dtype) == (str(file), torch.float32)
    ids = [0, 300, 301, 302, 900, 31, 44]
    torch.testing.assert_close(plain_logits(lm, ids), plain_logits(tiny_lm(), ids))
    assert END_ID in lm.end_ids
    assert lm.max_context == 512
    text = " the answer is True."
    assert lm.vocabulary.ids(text) == tiny_lm().vocabulary.ids(text)


def test_a_weight_that_is_missing_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.gguf", without="blk.1.ffn_up")
    text = r"weights are missing: model\.layers\.1\.mlp\.up_proj\.weight$"
    with pytest.raises(ValueError, match=text):
        load_lm(path, device="cpu")


IDS = [*range(40, 60)] * 12  # as far as scaling makes a difference


@pytest.mark.parametrize(
    ("scaled", "rope"),
    [
        (Scaling({"type": "linear", "factor": 4.0}), {"rope_type": "linear", "factor": 4.0}),
        (Scaling(tensors={"rope_freqs.weight": llama3_factors(8.0)}), {**LLAMA3, "factor": 8.0}),
        (Scaling(tensors={"rope_freqs.weight": llama3_factors(32.0)}), {**LLAMA3, "factor": 32.0}),
        (Scaling({"type": "linear"}), {"rope_type": "default"}),
        (Scaling({"type": "none"}, {"rope_freqs.weight": [1.0] * 4}), {"rope_type": "default"}),
    ],
    ids=["linear", "llama 3.1", "llama 3.2", "linear by 1", "none"],
)
def test_scaled_rotary_embeddings_are_read(
    scaled: Scaling, rope: dict[str, Any], tmp_path: Path
) -> None:
    """transformers leaves them out: the model would be another one."""
    lm = load_lm(write(tmp_path / "tiny.gguf", scaled=scaled), device="cpu")
    found, expected = plain_logits(lm, IDS), scaled_logits(rope, IDS)
    torch.testing.assert_close(found, expected)
    is_plain = torch.allclose(found, plain_logits(tiny_lm(), IDS), rtol=1e-4, atol=1e-5)
    assert is_plain == (rope["rope_type"] == "default")


@pytest.mark.parametrize(
    ("scaled", "message"),
    [
        (Scaling({"type": "yarn", "factor": 4.0}), r"scales its rotary embeddings \(yarn\), which"),
        (Scaling(tensors={"rope_factors_long.weight": [1.0] * 4}), r"embeddings \(longrope\)"),
        (Scaling(tensors={"rope_freqs.weight": [1, 2, 3, 4]}), "and not as Llama 3.1 does"),
    ],
)
def test_other_scaling_is_refused(scaled: Scaling, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.gguf", scaled=scaled)
    with pytest.raises(ValueError, match=message):
        load_lm(path, device="cpu")


@pytest.mark.parametrize("kind", ["starcoder2", "stablelm", "llama", "gemma3_text"])
def test_the_base_is_the_files(kind: str, tmp_path: Path) -> None:
    """transformers leaves it at 10,000 for architectures whose mapping has no place for it."""
    path = write(tmp_path / "tiny.gguf", scaled=Scaling(base=777.0))
    config = AutoConfig.for_model(kind)
    complete_attention(config, path)
    rope = config.rope_parameters
    assert rope.get("full_attention", rope)["rope_theta"] == 777.0
    assert rope.get("sliding_attention", {}).get("rope_theta") in (None, 10000.0)


@pytest.mark.parametrize(
    ("kind", "window", "longest"),
    [("phi3", 100, 512), ("starcoder2", 100, 512), ("llama", None, 100), ("qwen2", None, 100)],
)
def test_a_window_is_the_files(kind: str, window: int | None, longest: int, tmp_path: Path) -> None:
    """Where layers cannot have one, no text is longer than it."""
    path = write(tmp_path / "tiny.gguf", scaled=Scaling(others={"attention.sliding_window": 100}))
    config = AutoConfig.for_model(kind, max_position_embeddings=512)
    complete_attention(config, path)
    assert getattr(config, "sliding_window", None) == window
    assert config.max_position_embeddings == longest
    assert load_lm(path, device="cpu").max_context == 100


@pytest.mark.parametrize(("rotated", "is_read"), [(3, True), (12, False)])
def test_another_share_of_the_heads_is_refused(rotated: int, is_read: bool, tmp_path: Path) -> None:
    """StableLM rotates a quarter of a head: of the tiny model's 12 numbers 3."""
    path = write(tmp_path / "tiny.gguf", scaled=Scaling(others={"rope.dimension_count": rotated}))
    config = AutoConfig.for_model("stablelm")
    if is_read:
        complete_attention(config, path)
    else:
        with pytest.raises(ValueError, match="rotates 12 of the 12 numbers of a head, and"):
            complete_attention(config, path)


@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text"])
@pytest.mark.parametrize("num_layers", [26, {"gemma2": 46, "gemma3_text": 62}])
def test_gemmas_scale_of_27b_is_known(file: Path, kind: str, num_layers: Any) -> None:
    is_27b = isinstance(num_layers, dict)
    config = AutoConfig.for_model(
        kind,
        num_hidden_layers=num_layers[kind] if is_27b else num_layers,
        hidden_size=4608,
        num_attention_heads=32,
    )
    before = config.query_pre_attn_scalar
    complete_attention(config, file)
    assert config.query_pre_attn_scalar == (144 if is_27b else before)


def test_another_byte_order_is_told(file: Path, tmp_path: Path) -> None:
    whole = bytearray(file.read_bytes())
    whole[4:8] = bytes(reversed(whole[4:8]))
    path = tmp_path / "other.gguf"
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"other\.gguf is a GGUF file of another version or byte"):
        complete_attention(AutoConfig.for_model("llama"), path)


def test_layers_that_see_all_are_scaled_where_kinds_differ(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.gguf", scaled=Scaling({"type": "linear", "factor": 8.0}))
    config = AutoConfig.for_model("gemma3_text")
    complete_attention(config, path)
    assert config.rope_parameters["full_attention"]["rope_type"] == "linear"
    assert config.rope_parameters["full_attention"]["factor"] == 8.0
    assert config.rope_parameters["sliding_attention"]["rope_type"] == "default"


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_file_that_was_cut_off(share: float, file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"cannot load the model .*cut\.gguf: "):
        load_lm(path, device="cpu")
