"""Models that can be chosen without typing are those that are here."""

import json
from pathlib import Path

import pytest

from greater_fast.model.smollm2 import SMOLLM2
from greater_fast.ui.models import models_here

pytestmark = pytest.mark.ui


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, which is not there yet; nor is the demonstration model."""

    def missing() -> Path:
        raise ValueError("not installed")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("greater_fast.ui.models.smollm2_source", missing)
    return tmp_path / "hub"


def test_nothing_is_here(cache: Path) -> None:
    assert models_here() == []


def test_models_with_weights_are(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Language models by their names, and files that are models by themselves."""
    llama, other, of_images, of_speech = (
        json.dumps({"model_type": kind, "architectures": [name], **more})
        for kind, name, more in (
            ("llama", "LlamaForCausalLM", {}),
            ("bert", "BertModel", {}),
            ("qwen3_5", "Qwen3_5ForConditionalGeneration", {"text_config": {}}),
            ("whisper", "WhisperForConditionalGeneration", {}),
        )
    )
    kept = {
        "models--org--one": {"model.safetensors": "x", "config.json": llama},
        "models--org--two": {
            "two-q4.gguf": "x",
            "mmproj-two.gguf": "x",
            "two-f16-00001-of-00002.gguf": "x",
        },
        "models--org--sees": {"model.safetensors": "x", "config.json": of_images},
        "models--org--half": {"config.json": llama},
        "models--org--pickle": {"pytorch_model.bin": "x", "config.json": llama},
        "models--org--hears": {"model.safetensors": "x", "config.json": of_speech},
        "models--org--vectors": {"model.safetensors": "x", "config.json": other},
        "models--org--nameless": {"model.safetensors": "x", "config.json": "[]"},
        "models--org--bare": {"model.safetensors": "x"},
        "datasets--org--rows": {"rows.safetensors": "x", "config.json": llama},
    }
    for folder, files in kept.items():
        snapshot = cache / folder / "snapshots" / "0123abc"
        snapshot.mkdir(parents=True)
        for name, content in files.items():
            (snapshot / name).write_text(content)
    file = str(cache / "models--org--two" / "snapshots" / "0123abc" / "two-q4.gguf")
    assert models_here() == sorted([file, "org/one", "org/sees"])
    monkeypatch.setattr("greater_fast.ui.models.smollm2_source", lambda: cache)
    assert models_here() == [SMOLLM2, *sorted([file, "org/one", "org/sees"])]
