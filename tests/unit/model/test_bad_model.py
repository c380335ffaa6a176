"""What is no causal language model, or has no usable tokenizer, is refused when it is loaded."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from greater_fast import optimize
from greater_fast.model.lm import LM, load_lm
from tests.tiny import PROMPT, tiny_model, tiny_tokenizer

BERT = hf.BertConfig(
    vocab_size=1200,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    initializer_range=0.5,
    eos_token_id=1,
)
T5 = hf.T5Config(vocab_size=1200, d_model=32, d_ff=32, num_layers=1, num_heads=2, d_kv=16)
VIT = hf.ViTConfig(
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    image_size=32,
    patch_size=16,
)


def message(source: Any, rows: list[Any], tmp_path: Path, **settings: Any) -> str:
    """What `optimize` says of a model; it must have written nothing."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the caller reads the message)
        optimize(
            source,
            rows,
            prompt=PROMPT,
            config={"num_train": 4, "max_new_tokens": 4, "max_prompt_tokens": 40, **settings},
            run_dir=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()
    return str(caught.value)


@pytest.mark.parametrize("source", [None, 3, object(), torch.nn.Linear(2, 2)])
def test_what_is_no_model(source: Any, rows: list[Any], tmp_path: Path) -> None:
    text = message(source, rows, tmp_path)
    assert f"got {type(source).__name__}, expected a model name, a folder, a GGUF file" in text


def test_name_of_nothing(rows: list[Any], tmp_path: Path) -> None:
    assert "cannot load the model nobody/nothing" in message("nobody/nothing", rows, tmp_path)
    (tmp_path / "empty").mkdir()
    assert f"cannot load the model {tmp_path / 'empty'}" in message(
        tmp_path / "empty", rows, tmp_path
    )
    assert "no GGUF file at absent.gguf" in message("absent.gguf", rows, tmp_path)
    (tmp_path / "broken.gguf").write_bytes(b"no GGUF")
    assert "cannot load the model" in message(tmp_path / "broken.gguf", rows, tmp_path)


def test_broken_folder(lm: LM, rows: list[Any], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    lm.tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text("{")
    assert f"cannot load the model {folder}" in message(folder, rows, tmp_path)
    lm.model.config.save_pretrained(folder)
    assert f"cannot load the model {folder}" in message(folder, rows, tmp_path)


def test_broken_weights(lm: LM, rows: list[Any], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    lm.tokenizer.save_pretrained(folder)
    lm.model.config.save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"cut off")
    assert f"cannot load the model {folder}" in message(folder, rows, tmp_path)


@pytest.mark.parametrize("head", [hf.BertLMHeadModel, hf.BertForMaskedLM])
def test_bidirectional_model(head: Any, tokenizer: Any, rows: list[Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = head(BERT)
    text = f"{head.__name__} is no causal language model: a later token changes earlier states"
    assert text in message((model, tokenizer), rows, tmp_path)
    model.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    assert "bert is no causal language model" in message(tmp_path / "bert", rows, tmp_path)


@pytest.mark.parametrize("config", [T5, VIT], ids=["t5", "vit"])
def test_folder_of_another_kind_of_model(config: Any, rows: list[Any], tmp_path: Path) -> None:
    config.save_pretrained(tmp_path / "other")
    text = message(tmp_path / "other", rows, tmp_path)
    assert f"is a {config.model_type} model, expected a causal language model" in text


@pytest.mark.parametrize(
    "make",
    [
        lambda: hf.T5ForConditionalGeneration(T5),
        lambda: hf.ViTModel(VIT),
        lambda: hf.BertModel(BERT),
        lambda: hf.LlamaModel(tiny_model("llama", 1200).config),
        lambda: hf.LlamaForSequenceClassification(tiny_model("llama", 1200).config),
    ],
    ids=["t5", "vit", "bert without head", "llama without head", "classifier"],
)
def test_loaded_model_of_another_kind(
    make: Any, tokenizer: Any, rows: list[Any], tmp_path: Path
) -> None:
    model = make()
    text = message((model, tokenizer), rows, tmp_path)
    assert type(model).__name__ in text
    assert "causal language model" in text


@pytest.mark.parametrize("value", [float("nan"), 1e38])
def test_weights_that_are_not_finite(
    value: float, tokenizer: Any, rows: list[Any], tmp_path: Path
) -> None:
    model = tiny_model("llama", len(tokenizer))
    model.model.layers[1].mlp.up_proj.weight.fill_(value)
    assert "not finite" in message((model, tokenizer), rows, tmp_path)


def test_logits_made_in_an_unknown_way(
    tokenizer: Any, rows: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama", len(tokenizer))
    model.lm_head.register_forward_hook(lambda module, given, logits: logits * 2)
    load_lm((model, tokenizer))  # the head itself is asked, whatever it does
    plain = model.forward

    def doubled(*args: Any, **kwargs: Any) -> Any:
        output = plain(*args, **kwargs)
        output.logits = output.logits * 2
        return output

    monkeypatch.setattr(model, "forward", doubled)
    assert "makes its logits in a way that is not supported" in message(
        (model, tokenizer), rows, tmp_path
    )


def test_tokens_that_a_model_puts_before_a_text(
    tokenizer: Any, rows: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As prompt tuning does."""
    model = tiny_model("llama", len(tokenizer))
    plain = model.forward

    def longer(input_ids: Any, **kwargs: Any) -> Any:
        return plain(torch.cat([input_ids[:, :1], input_ids], 1), **kwargs)

    monkeypatch.setattr(model, "forward", longer)
    assert "a way that is not supported: 9 rows of 8 tokens" in re.sub(
        r"\d+ rows of \d+", "9 rows of 8", message((model, tokenizer), rows, tmp_path)
    )


def test_no_end_id(tokenizer: Any, rows: list[Any], tmp_path: Path) -> None:
    ownerless = tiny_tokenizer("llama3", chat_template=False)
    ownerless.eos_token = None
    model = tiny_model("llama", len(tokenizer))
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    text = message((model, ownerless), rows, tmp_path)
    assert "neither the model nor its tokenizer names an end-of-text id" in text


def test_folder_without_a_tokenizer(lm: LM, rows: list[Any], tmp_path: Path) -> None:
    lm.model.save_pretrained(tmp_path / "model")
    text = message(tmp_path / "model", rows, tmp_path)
    assert f"no usable tokenizer for {tmp_path / 'model'}" in text
    assert "pass (model, tokenizer)" in text


def test_loaded_model_without_a_tokenizer(lm: LM, rows: list[Any], tmp_path: Path) -> None:
    text = message(lm.model, rows, tmp_path)
    assert "no usable tokenizer for a nameless model" in text
    assert "pass (model, tokenizer)" in text


def test_slow_tokenizer(lm: LM, rows: list[Any], tmp_path: Path) -> None:
    text = message((lm.model, hf.ByT5Tokenizer()), rows, tmp_path)
    assert "got ByT5Tokenizer, expected a fast tokenizer (with offsets)" in text
    assert "tokenizer.json" in text
    assert "got str, expected a fast tokenizer" in message((lm.model, "gpt2"), rows, tmp_path)


def test_tokenizer_without_plain_text(lm: LM, rows: list[Any], tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    silent = hf.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), eos_token="</s>")
    text = message((lm.model, silent), rows, tmp_path)
    assert "the tokenizer has no ids for plain text: is this a text model?" in text


@pytest.mark.parametrize(
    "vocab_size",
    [
        200,
        400,
    ],
)
def test_tokenizer_of_a_larger_vocabulary(
    vocab_size: int, tokenizer: Any, rows: list[Any], tmp_path: Path
) -> None:
    model = tiny_model("llama", vocab_size)
    text = message((model, tokenizer), rows, tmp_path)
    assert f"the tokenizer's ids exceed the model's vocabulary of {vocab_size}" in text
    assert "they do not belong together" in text


def test_special_tokens_past_the_models_vocabulary(
    tokenizer: Any, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    """Gemma 3 has one, which a text model never meets."""
    larger = tiny_tokenizer("llama3")
    larger.add_special_tokens({"additional_special_tokens": ["<image>"]})
    assert len(larger) == len(tokenizer) + 1
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        result = optimize(
            (tiny_model("llama", len(tokenizer)), larger),
            rows,
            prompt=PROMPT,
            config={**settings, "steps": 1},
            run_dir=tmp_path / "run",
        )
    assert len(result.steps) == 1
