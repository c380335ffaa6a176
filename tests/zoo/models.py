"""A tiny random model of every causal architecture that transformers can build.

A configuration is the class's own default, made small by its fields' names: widths, heads, layers,
experts, windows. Layers are picked so that each kind that the default lists stays.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.tiny import BOS_ID, END_ID, PAD_ID

FAMILIES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
WINDOW = 44  # past the shortest probes, and within a prompt of the zoo
CONTEXT = 256
MOST_LAYERS = 6

# The first pattern that a field's whole name matches gives its small value.
_SIZES: list[tuple[str, int]] = [
    (r"original_max_position_embeddings", 64),
    (r"max_window_layers|index_local_blocks", 1),
    (r"index_block_size", 8),
    (r"index_topk_blocks", 3),
    (r"qk_head_dim", 16),
    (r"rotary_dim", 4),
    (r"mamba_(n|num)_heads|n_mamba_heads|mamba_num_heads", 8),
    (r"head_dim|.*_head_dim|d_head|dim_head|attention_head_size|kv_channels|.*headdim|.*d_head", 8),
    (r"hidden_size_per_layer_input", 8),
    (r"mamba_d_ssm|attention_hidden_size|mamba_intermediate_size", 64),
    (r"hidden_size|d_model|n_embd|lru_width|emb_dim|.*embed(ding)?(_proj)?_(dim|size)", 32),
    (
        r".*(intermediate|ffn|ff|feed_forward|filter).*_(size|dim)(_mlp)?|n_inner|d_inner|dff|dim_ff",
        48,
    ),
    (r"(.*_)?num_key_value_heads|num_kv_heads|kv_n_heads|num_query_groups", 2),
    (r"(.*_)?heads|n_heads?|index_n_heads", 4),
    (r"(num_|n_)?(hidden_|encoder_|decoder_)?layers?|num_blocks", 4),
    (r"num_layers_per_stack", 2),
    (r".*(sliding_window|window_size|attention_chunk_size|local_attention)(_size)?", WINDOW),
    (r"(moe_)?(num|n)_(local_|routed_)?experts|zero_expert_num", 4),
    (r".*experts_per_tok(en)?|moe_topk|moe_k", 2),
    (
        r"max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length|max_target_pos.*",
        CONTEXT,
    ),
    (r".*_rank", 16),
    (r"n_group|num_expert_group|topk_group", 1),
    (r"(first_k_dense_replace|num_dense_layers|moe_layer_start_index)", 1),
    (r".*(_period|_interval|_every_n_layers|_window_pattern|layer_group_size)", 2),
    (r".*_layer_offset", 1),
    (r".*d_state|.*state_size", 8),
    (r"keep_window_size|floor_scale|log_scaling_n_floor", WINDOW),
]
_ALTERNATING = ["linear_attention", "full_attention"] * 2
# What rules by name cannot know, or what a default lacks.
_SIZES_OF_FAMILIES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "blenderbot": {"encoder_layers": 4, "max_position_embeddings": CONTEXT},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {
        "n_shared_experts": 1,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "layer_types": ["full_attention", "sliding_attention"] * 2,
    },
    "gemma3n_text": {"num_kv_shared_layers": 2},
    "gemma4_assistant": {"hidden_size_per_layer_input": 0},
    "granitemoehybrid": {"layer_types": _ALTERNATING},
    "hrm_text": {"num_layers_per_stack": None, "num_hidden_layers": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2, "num_hidden_layers": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8},
    "qwen4_exp": {"indexer_kv_heads": 1},
    "qwen4_exp_text": {"indexer_kv_heads": 1},
    "reformer": {"axial_pos_embds_dim": [8, 24], "axial_pos_shape": [16, 16]},
    "minimax_m3_vl_text": {"layer_types": ["full_attention", "minimax_m3_sparse"] * 2},
    "rwkv": {"attention_hidden_size": 32},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},
    "xmod": {"default_language": "en_XX"},
}
# Fields that no causal model of one language could do without.
_SETTINGS: dict[str, Any] = {
    "is_decoder": True,
    "tie_word_embeddings": False,
    "use_sliding_window": True,
}
_WHERE_NONE = {
    "sliding_window": WINDOW,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "indexer_n_heads": 4,
    "indexer_kv_heads": 2,
    "indexer_head_dim": 8,
    "indexer_budget": WINDOW,
    "indexer_compress_ratio": 4,
}
_META = {
    "transformers_version",
    "model_type",
    "architectures",
    "_name_or_path",
    "dtype",
    "id2label",
    "label2id",
    "hybrid_layer_ids",  # made of others
}


_LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 4.0, 8.0],
    "original_max_position_embeddings": 64,
}
_ROPE = {"rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
_LLAMA3_ROPE = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
# What an architecture has in some published models and not in its default: (architecture, fields).
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon with ALiBi": ("falcon", {"alibi": True}),
    "falcon of 40B": ("falcon", {"new_decoder_architecture": True}),
    "falcon_h1 with multipliers": ("falcon_h1", {"lm_head_multiplier": 0.2}),
    "gemma4 whose values are its keys": ("gemma4_text", {"attention_k_eq_v": True}),
    "gemma4 with shared keys": (
        "gemma4_text",
        {
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "per_layer_config": {1: {"head_dim": 16}, 3: {"head_dim": 16}},
        },
    ),
    "granite with multipliers": (
        "granite",
        {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.5},
    ),
    "hyperclovax with multipliers": (
        "hyperclovax",
        {"logits_scaling": 0.125, "embedding_multiplier": 12.0, "residual_multiplier": 0.5},
    ),
    "llama with dynamic RoPE": ("llama", {"rope_parameters": {"rope_type": "dynamic"} | _ROPE}),
    "llama with linear RoPE": ("llama", {"rope_parameters": {"rope_type": "linear"} | _ROPE}),
    "llama with Llama 3's RoPE": ("llama", {"rope_parameters": _LLAMA3_ROPE | _ROPE}),
    "llama with YaRN": ("llama", {"rope_parameters": {"rope_type": "yarn"} | _ROPE}),
    "opt of 350M": ("opt", {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "phi3 with long RoPE": ("phi3", {"rope_parameters": _LONG_ROPE}),
    "phimoe without a window": ("phimoe", {"sliding_window": None}),
    "qwen2_moe without a window": (
        "qwen2_moe",
        {"use_sliding_window": False, "layer_types": ["full_attention"] * 4},
    ),
}


def zoo_config(name: str, vocab_size: int) -> Any:
    """The small configuration of an architecture, or of a variant of one."""
    family, fields = VARIANTS.get(name, (name, {}))
    own = _SIZES_OF_FAMILIES.get(family, {}) | fields
    return _shrunk(CONFIG_MAPPING[family](), vocab_size, own)


def _shrunk(config: Any, vocab_size: int, own: dict[str, Any]) -> Any:
    values = {k: v for k, v in config.to_dict().items() if k not in _META}
    picked = _picked_layers(values)
    windows = ["full_attention", "sliding_attention"] if "sliding_window" in values else None
    small: dict[str, Any] = {}
    for name, value in values.items():
        part = vars(config).get(name)  # a look by name may refuse what differs by layer
        if isinstance(part, PreTrainedConfig):
            small[name] = _shrunk(part, vocab_size, own)
        elif re.fullmatch(r"(decoder_|unpadded_)?vocab_size(_per_layer_input)?", name):
            small[name] = vocab_size
        elif name == "per_layer_config" and value:
            small[name] = _small_by_layer(value, picked[1] if picked else [])
        elif name == "layer_types" and set(value or "") == {"full_attention"} and windows:
            small[name] = [windows[i % 2] for i in range(len(picked[1]) if picked else len(value))]
        elif isinstance(value, (list, tuple)) and picked and len(value) == picked[0]:
            small[name] = [_small(name, value[i]) for i in picked[1]]
        else:
            small[name] = _small(name, value)
            if picked and value == picked[0] and "layer" in name:
                small[name] = len(picked[1])
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        small[name] = {"bos": BOS_ID, "eos": END_ID, "pad": PAD_ID}[name[:3]]
    small |= {k: v for k, v in _SETTINGS.items() if k in values}
    for name, filled in _WHERE_NONE.items():
        if name in values and not values[name]:
            small[name] = filled
    heads, kv_heads = (values.get(f"num_{kind}_heads") for kind in ("attention", "key_value"))
    if heads is not None and heads == kv_heads:
        small["num_key_value_heads"] = small["num_attention_heads"]
    small |= {k: v for k, v in own.items() if k in values or k in ("head_dim",)}
    return type(config)(**small)


def _small(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _small(key, part) for key, part in value.items()}
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    found = next((size for pattern, size in _SIZES if re.fullmatch(pattern, name)), value)
    return min(found, value) if value > 0 else value


def _small_by_layer(value: dict[str, dict[str, Any]], kept: list[int]) -> dict[str, Any]:
    """What some layers have of their own, twice as large as what the others have."""
    own = {int(layer): fields for layer, fields in value.items()}
    return {
        f"{place:02}": {name: 2 * _small(name, size) for name, size in own[layer].items()}
        for place, layer in enumerate(kept)
        if layer in own
    }


def _picked_layers(values: dict[str, Any]) -> tuple[int, list[int]] | None:
    """How many layers there are, and which of them stay, where lists tell them apart."""
    names = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    number = next((values[n] for n in names if isinstance(values.get(n), int)), 0)
    lists = [v for v in values.values() if isinstance(v, (list, tuple)) and len(v) == number > 4]
    if not lists:
        return None
    kinds = [str([v[i] for v in lists]) for i in range(number)]
    kept = [i for i, kind in enumerate(kinds) if kinds.index(kind) == i][:MOST_LAYERS]
    kept += [i for i in range(number) if i not in kept][: max(4 - len(kept), 0)]
    return number, sorted(kept)


def zoo_model(name: str, vocab_size: int, dtype: torch.dtype = torch.float32) -> Any:
    """A random model in eval mode, frozen, whose logits differ clearly.

    Raises:
        whatever transformers raises where it cannot build one.
    """
    torch.manual_seed(0)
    config = zoo_config(name, vocab_size)
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        weight.requires_grad_(False)
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim < 2 or "log" in name:
            weight.add_(0.1 * noise)
        elif "embed" in name or "wte" in name:
            weight.copy_(noise)
        else:
            weight.copy_(noise / weight[0].numel() ** 0.5)
    return model.to(dtype).eval()
