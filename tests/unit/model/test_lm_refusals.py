"""Which ids end a turn, and what is refused before it goes wrong silently."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    T5Config,
)

from greater_fast.model.lm import load_lm
from tests.cases import tokenizer
from tests.tiny import LLAMA3_TEMPLATE, tiny_model, tiny_tokenizer


def fresh(**config: Any) -> tuple[Any, Any]:
    """A model and a tokenizer that a test may change, with no end id but those of `config`."""
    found = tiny_tokenizer("llama3")
    found.eos_token = None
    model = tiny_model("llama", len(found))
    model.generation_config.eos_token_id = config.get("generation")
    model.config.eos_token_id = config.get("model")
    return model, found


def plain_pair() -> tuple[Any, Any]:
    model, found = fresh()
    found.chat_template = None
    return model, found


def test_end_ids_come_from_all_who_name_them() -> None:
    model, found = plain_pair()
    model.generation_config.eos_token_id = [7, 8]
    assert load_lm((model, found)).end_ids == {7, 8}
    model.config.eos_token_id = 9
    assert load_lm((model, found)).end_ids == {7, 8, 9}
    found.eos_token = "<|pad|>"
    assert load_lm((model, found)).end_ids == {2, 7, 8, 9}
    found.chat_template = LLAMA3_TEMPLATE
    found.add_special_tokens({"additional_special_tokens": ["<|eot_id|>"]})
    assert load_lm((model, found)).end_ids == {1, 2, 7, 8, 9}


def test_a_model_without_generation_settings() -> None:
    model, found = plain_pair()
    model.generation_config, model.config.eos_token_id = None, [5]
    assert load_lm((model, found)).end_ids == {5}


def test_a_turn_end_that_no_attribute_of_the_tokenizer_names() -> None:
    """Phi-3's <|end|>: a special token by its flag alone."""
    model, found = fresh(model=5)
    found.chat_template = LLAMA3_TEMPLATE.replace("<|eot_id|>", "<|end_header_id|>\n")
    assert 4 not in found.all_special_ids
    assert load_lm((model, found)).end_ids == {4, 5}


def test_plain_text_behind_a_message_ends_no_turn() -> None:
    model, found = fresh(model=5)
    found.chat_template = "{% for turn in messages %}{{ turn.content + ' the ' }}{% endfor %}"
    assert load_lm((model, found)).end_ids == {5}


def test_a_template_that_drops_the_assistant_names_no_end() -> None:
    model, found = fresh(model=5)
    found.chat_template = "{{ '<|begin_of_text|>' + messages[0].content }}"
    assert load_lm((model, found)).end_ids == {5}


def test_a_template_that_needs_arguments_does_not_stop_loading() -> None:
    model, found = fresh(model=5)
    found.chat_template = (
        "{% if date is not defined %}{{ raise_exception('no date') }}{% endif %}" + LLAMA3_TEMPLATE
    )
    assert load_lm((model, found)).end_ids == {5}


def test_no_end_id_at_all() -> None:
    with pytest.raises(ValueError, match="neither the model nor its tokenizer names an end"):
        load_lm(plain_pair())


@pytest.mark.parametrize("source", [7, None, object(), torch.nn.Linear(2, 2), {"model": 1}])
def test_what_is_no_model(source: object) -> None:
    with pytest.raises(ValueError, match=rf"got {type(source).__name__}, expected a model name"):
        load_lm(source)


def test_a_nameless_model_without_a_tokenizer() -> None:
    """No hub is asked for a tokenizer by the name of a class."""
    with pytest.raises(ValueError, match=r"no usable tokenizer .* pass \(model, tokenizer\)"):
        load_lm(tiny_model("llama", 1200))


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no GGUF file at .*none\.gguf"):
        load_lm(tmp_path / "none.gguf")
    with pytest.raises(ValueError, match=r"cannot load the model .*: "):
        load_lm(tmp_path)
    LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no usable tokenizer for .*: "):
        load_lm(tmp_path)
    tokenizer("llama3").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"cannot load the model .*: "):
        load_lm(tmp_path)


def test_a_folder_of_another_kind_of_model(tmp_path: Path) -> None:
    T5Config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a t5 model, expected a causal language model"):
        load_lm(tmp_path)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    model, found = tiny_model("llama", 1200), tokenizer("llama3")
    model.config.save_pretrained(tmp_path)
    found.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"are pickles \(pytorch_model\.bin\): .* safetensors"):
        load_lm(tmp_path)


def test_a_tokenizer_of_another_model() -> None:
    found = tokenizer("llama3")
    with pytest.raises(ValueError, match="exceed the model's vocabulary of 260"):
        load_lm((tiny_model("llama", 260), found))


def test_a_model_that_sees_later_tokens() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=1200,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.5,
        eos_token_id=1,
    )
    with pytest.raises(ValueError, match="a later token changes earlier states"):
        load_lm((BertForMaskedLM(config), tokenizer("llama3")))


def test_the_decoder_is_found_whatever_the_model_names_so() -> None:
    """Nothing, the whole (Llama 4's text model), another part (ModernBERT's decoder)."""

    class Odd(LlamaForCausalLM):
        named: Any = None

        def get_decoder(self) -> Any:
            return self.named

    model = Odd(tiny_model("llama", 1200).config)
    for named in (None, model, model.lm_head, model.model):
        object.__setattr__(model, "named", named)
        assert load_lm((model, tokenizer("llama3"))).decoder is model.model


def test_a_model_without_a_head() -> None:
    model = LlamaModel(tiny_model("llama", 1200).config)
    with pytest.raises(ValueError, match="has no output embeddings: expected a causal"):
        load_lm((model, tokenizer("llama3")))


@pytest.mark.parametrize("part", ["lm_head", "model.layers.1.mlp.up_proj", ""])
def test_a_model_on_more_devices_than_one(part: str) -> None:
    """Spread by device_map="auto", or with all weights kept elsewhere until a layer runs."""
    model = tiny_model("llama", 1200)
    model.get_submodule(part).to("meta")
    where = "on cpu and meta" if part else "on meta"
    with pytest.raises(ValueError, match=rf"weights of .* are {where}.*tensor_parallel=True"):
        load_lm((model, tokenizer("llama3")))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("change", ["scale", "bias", "cap", "rounding"])
def test_a_model_that_makes_its_logits_differently(change: str, dtype: torch.dtype) -> None:
    """What 16 bits may lose is no difference there."""
    changes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "scale": lambda logits: 1.3 * logits,
        "bias": lambda logits: logits + torch.linspace(-1, 1, logits.shape[-1]),
        "cap": lambda logits: 5.0 * torch.tanh(logits / 5.0),
        "rounding": lambda logits: logits + 0.006 * logits.abs().max(),
    }

    class Odd(LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output: Any = super().forward(*args, **kwargs)
            output.logits = changes[change](output.logits)
            return output

    source = tiny_model("llama", 1200, dtype)
    model: Any = Odd(source.config).to(dtype)
    model.load_state_dict(source.state_dict())
    if (change, dtype) == ("rounding", torch.bfloat16):
        assert load_lm((model, tokenizer("llama3"))).model is model
        return
    with pytest.raises(ValueError, match=r"makes its logits in a way .* \(they differ by \d"):
        load_lm((model, tokenizer("llama3")))
    assert load_lm((source, tokenizer("llama3"))).model is source
