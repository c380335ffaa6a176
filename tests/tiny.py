"""Tiny tokenizers, models and rows for the tests: made in memory, the same every time."""

import json
import random
import string
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

BOS_ID, END_ID, PAD_ID = 0, 1, 2
PROMPT = (
    "Use proper logical reasoning and think step by step. Finally give the actual correct answer."
)
EXTRACTOR = "Therefore, the final answer is $"
VOCAB_SIZE = 1200

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPECIALS = [
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|pad|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
]
LLAMA3_TEMPLATE = (
    "{{ '<|begin_of_text|>' }}{% for turn in messages %}"
    "{{ '<|start_header_id|>' + turn.role + '<|end_header_id|>\n\n' }}"
    "{{ turn.content | trim }}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA_SPECIALS = ["<bos>", "<end_of_turn>", "<pad>", "<start_of_turn>", "<unk>"]
GEMMA_TEMPLATE = (
    "{{ '<bos>' }}{% for turn in messages %}"
    "{{ '<start_of_turn>' + ('model' if turn.role == 'assistant' else turn.role) + '\n' }}"
    "{{ turn.content | trim }}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)

WORDS = {
    "opening": "Then|Next|First|Now|Here|Today|Perhaps|Also|Often|Usually|So|Later|Still",
    "subject": "the teacher|a child|my friend|our doctor|the farmer|one girl|each boy|the old man"
    "|every student|the writer|a king|this woman|that driver|the baker|some people|the team",
    "verb": "finds|takes|counts|gives|writes|reads|explains|checks|keeps|sees|opens|moves|answers"
    "|solves|sells|brings|likes|shows|asks|needs|makes|buys|builds|knows",
    "adjective": "small|large|simple|clear|good|bad|new|red|green|blue|careful|short|long|true"
    "|false|right|wrong|final|great|strange|easy|hard|open|proper|logical|correct|actual",
    "thing": "book|apple|house|number|problem|question|answer|letter|table|reason|method|box"
    "|garden|word|line|sum|price|rule|idea|train|city|river|game|story|list|result",
    "adverb": "quickly|slowly|with care|again|at home|by hand|in the morning|for a while|twice"
    "|before noon|after dinner|under the tree|near the sea|without help|step by step|very well",
    "advice": "think|explain|reason|work|read|count|compare|describe|consider|show|try|write"
    "|decide|look|start|plan|use|check|follow|state|provide|determine",
}


def corpus() -> list[str]:
    """Sentences made of the word lists above, of the default prompt and of boolean rows."""
    rng = random.Random(0)
    words = {kind: text.split("|") for kind, text in WORDS.items()}

    def pick(kind: str) -> str:
        return rng.choice(words[kind])

    lines = []
    for i in range(600):
        lines.append(
            f"{pick('opening')} {pick('subject')} {pick('verb')} the {pick('adjective')} "
            f"{pick('thing')} {pick('adverb')}, and {pick('subject')} {pick('verb')} {i} of it."
        )
        lines.append(
            f"Please {pick('advice')} and {pick('advice')} about your {pick('thing')}. "
            f"{pick('advice').capitalize()} it {pick('adverb')}."
        )
    lines += [PROMPT, EXTRACTOR, "The final answer is $True$ or $ False $.", "It costs ($5)."] * 90
    lines += ["user", "assistant", "model"] * 90
    return lines + [f"{question} {answer}" for question, answer in boolean_rows(60)]


def boolean_rows(n: int) -> list[tuple[str, str]]:
    """Questions on truth values of different lengths, with the answer "True" or "False"."""
    rng = random.Random(1)
    rows: list[tuple[str, str]] = []
    for i in range(n):
        value = rng.random() < 0.5
        text = str(value)
        for _ in range(1 + i % 3):
            other, negated, conjunction = (rng.random() < 0.5 for _ in range(3))
            text = f"( {text} ) {'and' if conjunction else 'or'} {'not ' * negated}{other}"
            operand = other != negated
            value = (value and operand) if conjunction else (value or operand)
        rows.append((f"Question {i + 1}: is {text} True or False?", str(value)))
    return rows


def tiny_tokenizer(kind: str, chat_template: bool = True, more: Sequence[str] = ()) -> Any:
    """A fast tokenizer of the kind "llama3" or "sentencepiece", with 850 to 1200 tokens.

    It is trained on the corpus and on `more` lines.
    """
    if kind not in ("llama3", "sentencepiece"):
        raise ValueError(f"got kind {kind!r}, expected 'llama3' or 'sentencepiece'")
    llama3 = kind == "llama3"
    specials = LLAMA3_SPECIALS if llama3 else GEMMA_SPECIALS
    lines = [*corpus(), *more]
    backend = _byte_level(specials, lines) if llama3 else _metaspace(specials, lines)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{specials[BOS_ID]} $A", special_tokens=[(specials[BOS_ID], BOS_ID)]
    )
    template = LLAMA3_TEMPLATE if llama3 else GEMMA_TEMPLATE
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=specials[BOS_ID],
        eos_token=specials[END_ID],
        pad_token=specials[PAD_ID],
        unk_token=None if llama3 else "<unk>",
        chat_template=template if chat_template else None,
        clean_up_tokenization_spaces=False,
    )


def _byte_level(specials: list[str], lines: list[str]) -> Tokenizer:
    """Byte-level BPE behind Llama-3's pre-tokenisation."""
    backend = Tokenizer(models.BPE(ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([*lines, *["\n\n"] * 90], trainer)
    return backend


def _metaspace(specials: list[str], lines: list[str]) -> Tokenizer:
    """Sentencepiece's BPE as Llama-2 has it: "▁" for spaces, byte fallback, no merge over marks."""
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [metaspace, pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(specials) - 256,
        initial_alphabet=list(string.ascii_letters + string.digits + string.punctuation + "▁\n"),
        show_progress=False,
    )
    trained.train_from_iterator(lines, trainer)
    learned = json.loads(trained.to_str())["model"]
    marks = ["$", "(", '"', "'", "[", "{", "`"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = [*specials, *byte_tokens, *learned["vocab"], *("▁" + mark for mark in marks)]
    merges = [tuple(pair) for pair in learned["merges"]] + [("▁", mark) for mark in marks]
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.pre_tokenizer = metaspace
    backend.add_special_tokens(specials)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return backend


def tiny_model(
    family: str, vocab_size: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Any:
    """A random causal LM, in eval mode, frozen; of a family that the function below lists.

    Logits differ clearly (standard deviation about 2). Every 13th id is an end id beside END_ID,
    so that greedy reasonings have different lengths: see `model.generation_config.eos_token_id`.
    """
    shape: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": BOS_ID,
        "eos_token_id": [END_ID, *range(13, vocab_size, 13)],
        "pad_token_id": PAD_ID,
    }
    config: PreTrainedConfig
    if family == "llama":
        config = LlamaConfig(**shape, tie_word_embeddings=False)
    elif family == "qwen2":
        config = Qwen2Config(**shape, tie_word_embeddings=False)
    elif family == "qwen3":
        config = Qwen3Config(**shape, head_dim=16, tie_word_embeddings=False)
    elif family == "mistral":
        config = MistralConfig(**shape, sliding_window=16, tie_word_embeddings=False)
    elif family == "phi3":
        config = Phi3Config(**shape, sliding_window=24, tie_word_embeddings=False)
    elif family == "gemma3":
        layers = ["sliding_attention", "full_attention"]
        config = Gemma3TextConfig(**shape, head_dim=16, sliding_window=16, layer_types=layers)
    elif family == "gemma2":
        shape["num_hidden_layers"] = 3
        config = Gemma2Config(
            **shape,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=16,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=8.0,
        )
    else:
        raise ValueError(f"got family {family!r}, expected one of those above")

    # Soft-capping exists in eager attention alone: sdpa drops it silently.
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    generator, is_gemma = torch.Generator().manual_seed(seed), family.startswith("gemma")
    for name, weight in model.named_parameters():
        weight.requires_grad_(False)
        noise = torch.randn(weight.shape, generator=generator)
        if "embed_tokens" in name:
            weight.copy_(noise * (2 / 48**0.5 if is_gemma else 1.0))
        elif "lm_head" in name:
            weight.copy_(noise * 2 / 48**0.5)
        elif weight.ndim == 2:
            weight.copy_(noise / weight.shape[1] ** 0.5)
        else:
            weight.add_(0.1 * noise)
            if is_gemma and "post_" in name:
                weight.add_(1.0)  # tied embeddings: else every token predicts itself
    return model.to(dtype).eval()
