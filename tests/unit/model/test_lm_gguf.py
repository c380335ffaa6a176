"""A GGUF file as llama.cpp writes it: small, made here, and read as any other model."""

import json
from pathlib import Path

import pytest
import torch

from greater_fast.model.lm import load_lm
from tests.cases import plain_logits, tiny_lm
from tests.tiny import END_ID


def permuted(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rotary halves interleaved, as the format has them."""
    halves = weight.reshape(num_heads, 2, weight.shape[0] // num_heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(weight.shape)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def write(path: Path, without: str = "") -> Path:
    """The tiny model as a GGUF file, without one of its weights."""
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
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)

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


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_file_that_was_cut_off(share: float, file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"cannot load the model .*cut\.gguf: "):
        load_lm(path, device="cpu")
