"""Every weight is from the model's files, or the model is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import Gemma2Config, LlamaConfig

from greater_fast import evaluate
from greater_fast.model.files import ModelFiles, read_config
from greater_fast.model.lm import load_lm
from greater_fast.model.weights import read_weights
from greater_fast.ranks import ALONE, Ranks
from tests.cases import tokenizer
from tests.tiny import PROMPT, tiny_model

Weights = dict[str, torch.Tensor]
UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """A folder with a tiny model whose file was changed by a function."""

    def save(change: Callable[[Weights], Any], family: str = "llama") -> Path:
        tiny_model(family, 1200).save_pretrained(tmp_path)
        tokenizer("llama3").save_pretrained(tmp_path)
        file = tmp_path / "model.safetensors"
        weights = load_file(file)
        change(weights)
        save_file(weights, file, metadata={"format": "pt"})
        return tmp_path

    return save


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError, match="are not whole, or not of one model") as caught:
        load_lm(folder, device="cpu")
    return str(caught.value)


def test_a_weight_that_is_missing(changed: Callable[..., Path]) -> None:
    folder = changed(lambda weights: weights.pop(UP))
    assert refusal(folder) == (
        f"the files of {folder} are not whole, or not of one model: weights are missing: {UP}"
    )


def test_a_head_that_is_not_tied_and_missing(changed: Callable[..., Path]) -> None:
    assert "weights are missing: lm_head.weight" in refusal(
        changed(lambda w: w.pop("lm_head.weight"))
    )


def test_a_tied_head_is_not_missing(changed: Callable[..., Path]) -> None:
    folder = changed(lambda weights: None, family="gemma2")
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    assert load_lm(folder, device="cpu").notes == ()


def test_many_are_counted(changed: Callable[..., Path]) -> None:
    def drop(weights: Weights) -> None:
        for name in [name for name in weights if "mlp" in name]:
            del weights[name]

    text = refusal(changed(drop))
    assert "model.layers.0.mlp.down_proj.weight, model.layers.0.mlp.gate_proj.weight" in text
    assert text.endswith("and 2 more")


def test_another_shape_than_the_configurations(changed: Callable[..., Path]) -> None:
    folder = changed(lambda weights: weights.update({UP: torch.zeros(7, 48)}))
    assert f"another shape than the configuration has: {UP} of [7, 48] for [96, 48]" in refusal(
        folder
    )


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.2.mlp.up_proj.weight",  # one layer more than the configuration has
        "layers.2.mlp.up_proj.weight",
        "model.embed_positions.weight",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        "lm_head.bias",
        "score.weight",
    ],
)
def test_weights_without_a_place(name: str, changed: Callable[..., Path]) -> None:
    text = refusal(changed(lambda weights: weights.update({name: torch.zeros(3)})))
    assert "weights have no place in it: " in text
    assert name.removeprefix("model.") in text


@pytest.mark.parametrize("tower", ["vision_tower", "model.visual", "v_head"])
def test_a_whole_part_beside_the_text_model_is_noted(
    tower: str, changed: Callable[..., Path], rows: list[Any]
) -> None:
    names = [f"{tower}.{name}" for name in ("blocks.0.weight", "blocks.1.weight", "embedding")]
    folder = changed(lambda weights: weights.update({name: torch.zeros(3) for name in names}))
    note = f"parts of {folder} that are no part of its text model: {tower.removeprefix('model.')}"
    assert load_lm(folder, device="cpu").notes == (note,)
    report = evaluate(
        folder, rows[:1], prompt=PROMPT, config={"max_new_tokens": 2, "device": "cpu"}
    )
    assert note in report.notes


def test_buffers_of_old_checkpoints_are_no_weights(changed: Callable[..., Path]) -> None:
    names = [f"model.layers.{layer}.self_attn.rotary_emb.inv_freq" for layer in (0, 1)]
    folder = changed(lambda weights: weights.update({name: torch.zeros(6) for name in names}))
    assert load_lm(folder, device="cpu").notes == ()


@pytest.mark.parametrize(
    "config", [LlamaConfig(num_hidden_layers=3), Gemma2Config()], ids=["layers", "family"]
)
def test_the_configuration_of_another_model(config: Any, changed: Callable[..., Path]) -> None:
    """With other layers, or of another family: weights are missing, and others too many."""
    folder = changed(lambda weights: None)
    shape = tiny_model("llama", 1200).config.to_dict()
    for name in ("hidden_size", "intermediate_size", "num_attention_heads", "vocab_size"):
        setattr(config, name, shape[name])
    config.head_dim, config.num_key_value_heads = 12, 2
    config.num_hidden_layers, config.layer_types = 3, ["full_attention"] * 3
    config.save_pretrained(folder)
    assert "weights are missing: " in refusal(folder)


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Where models were asked for; what goes to a GPU goes to the CPU by the same way."""
    asked: list[Any] = []
    load = transformers.AutoModelForCausalLM.from_pretrained

    def from_pretrained(*args: Any, device_map: Any = None, **options: Any) -> Any:
        asked.append(device_map)
        on_cpu = {} if device_map is None else {"device_map": dict.fromkeys(device_map, "cpu")}
        return load(*args, **options, **on_cpu)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setattr("greater_fast.model.weights.shared_options", lambda ranks: {})
    monkeypatch.setattr("greater_fast.model.weights.check_shared", lambda model, ranks: None)
    return asked


def test_weights_go_to_a_gpu_one_by_one(
    changed: Callable[..., Path], placed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(changed(lambda weights: None))
    files = ModelFiles(folder, folder, {})
    found, _ = read_weights(files, None, torch.float32, device="cuda:1")
    expected, _ = read_weights(files, None, torch.float32)
    for name, weight in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight)
    read_weights(files, None, torch.float32, Ranks(0, 2), "cuda:1")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    read_weights(files, None, torch.float32, ALONE, "cuda:1")
    assert placed == [{"": torch.device("cuda:1")}, None, None, None]


def test_a_gguf_file_and_quantised_weights_are_read_as_they_are(
    changed: Callable[..., Path], placed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(changed(lambda weights: None))
    with pytest.raises(ValueError, match=r"none\.gguf"):
        read_weights(
            ModelFiles(folder, folder, {"gguf_file": "none.gguf"}),
            None,
            torch.float32,
            ALONE,
            "cuda",
        )
    monkeypatch.setattr("greater_fast.model.lm.usable_device", lambda device: device)
    monkeypatch.setattr(transformers.PreTrainedModel, "to", lambda model, device: model)
    load_lm(folder, "cuda", "float32")
    config = read_config(ModelFiles(folder, folder, {}))
    config.quantization_config = {"quant_method": "a stand-in"}
    monkeypatch.setattr("greater_fast.model.lm.read_config", lambda files: config)
    load_lm(folder, "cuda", "float32")
    assert placed == [None, {"": torch.device("cuda")}, None]
