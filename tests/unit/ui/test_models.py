"""Models that can be chosen without typing are those that are here."""

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
    kept = {
        "models--org--one": "model.safetensors",
        "models--org--two": "two-q4.gguf",
        "models--org--half": "config.json",
        "models--org--pickle": "pytorch_model.bin",
        "datasets--org--rows": "rows.safetensors",
    }
    for folder, file in kept.items():
        snapshot = cache / folder / "snapshots" / "0123abc"
        snapshot.mkdir(parents=True)
        (snapshot / file).write_text("x")
    assert models_here() == ["org/one", "org/two"]
    monkeypatch.setattr("greater_fast.ui.models.smollm2_source", lambda: cache)
    assert models_here() == [SMOLLM2, "org/one", "org/two"]
