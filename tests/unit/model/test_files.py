"""What a model's folder may hold: no code that runs, no pickles; and where it is looked for."""

import contextlib
import json
import pickle
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from greater_fast import evaluate, optimize
from greater_fast.api import plan
from greater_fast.examples.data import load_examples
from greater_fast.model import files
from greater_fast.model.files import (
    ModelFiles,
    locate,
    read_config,
    read_tokenizer,
    weights_dtype,
)
from greater_fast.model.lm import load_lm
from tests.tiny import PROMPT, tiny_model

CODE = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, model_folder: Path) -> Path:
    """A copy of the tiny model's folder."""
    copy = tmp_path / "model"
    copy.mkdir()
    for file in model_folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize("part", ["config", "model", "tokenizer"])
@pytest.mark.parametrize("call", [plan, optimize, evaluate])
def test_code_of_a_folder_is_not_run(
    part: str,
    call: Any,
    folder: Path,
    rows: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody is asked either: a yes would be enough."""
    monkeypatch.setattr("builtins.input", lambda *_: "yes")
    mark = tmp_path / "ran"
    (folder / "own.py").write_text(CODE.format(mark=str(mark)))
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    if part == "config":
        change(folder / "config.json", auto_map=auto_map, model_type="own")
    elif part == "model":
        change(folder / "config.json", auto_map=auto_map)
    else:
        (folder / "tokenizer.json").unlink()
        change(
            folder / "tokenizer_config.json",
            auto_map={"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]},
            tokenizer_class="OwnTokenizer",
        )
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(CODE.format(mark=str(mark)))
    config = {"max_new_tokens": 2, "max_prompt_tokens": 40, "num_train": 4, "device": "cpu"}
    if part == "model":  # transformers has that architecture itself
        load_lm(folder, device="cpu")
    else:
        with pytest.raises(
            ValueError, match=r"code of its own, which is not run here: .* the pair"
        ):
            call(folder, rows, prompt=PROMPT, config=config)
    assert not mark.exists()


def test_an_adapter_is_told_apart(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    with pytest.raises(ValueError, match=r"is an adapter for some/base: merge it .*\(model, tok"):
        load_lm(folder, device="cpu")
    (folder / "adapter_config.json").write_text("[")
    with pytest.raises(ValueError, match=r"is an adapter for a model that its .* does not name"):
        load_lm(folder, device="cpu")


def test_pickles_are_refused_before_anything_is_read(folder: Path, rows: list[Any]) -> None:
    weights = folder / "model.safetensors"
    (folder / "pytorch_model-00001-of-00002.bin").touch()
    (folder / "training_args.bin").touch()
    load_lm(folder, device="cpu")  # there are safetensors beside them
    weights.unlink()
    with pytest.raises(ValueError, match=r"are pickles \(pytorch_model-00001.* any code; if you"):
        plan(folder, rows, prompt=PROMPT)


class Booby:
    """Makes a file when its pickle is read."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self._mark,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_no_pickle_is_ever_read(folder: Path, rows: list[Any], tmp_path: Path, name: str) -> None:
    mark = tmp_path / "ran"
    written = pickle.dumps(Booby(mark))
    for other in (name, "training_args.bin", "optimizer.pt", "tokenizer.pkl", "adapter_model.bin"):
        (folder / other).write_bytes(written)
    load_lm(folder, device="cpu")  # there are safetensors beside them
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="safetensors"):
        load_lm(folder, device="cpu")
    data = tmp_path / "rows.pkl"
    data.write_bytes(pickle.dumps([*rows, Booby(mark)]))
    with pytest.raises(ValueError, match=r"not UTF-8|binary content"):
        load_examples(data)
    assert not mark.exists()
    pickle.loads(written)
    assert mark.exists()  # the trap works


def test_other_weights_than_safetensors(folder: Path) -> None:
    torch.save({}, folder / "model.pt")
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        ValueError, match=r"no file named model\.safetensors.*read from safetensors"
    ):
        load_lm(folder, device="cpu")


def test_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    for source in ("~/model", Path("~/model")):
        lm = load_lm(source, device="cpu")
        assert (lm.name, locate("name", source).path) == (str(source), str(folder))
    with pytest.raises(ValueError, match=f"no GGUF file at {folder.parent}/none.gguf"):
        load_lm("~/none.gguf")


@pytest.mark.parametrize(
    "values",
    [
        {"num_attention_heads": 0},
        {"num_attention_heads": "many"},
        {"hidden_act": "nothing"},
        {"rope_parameters": {"rope_type": "none"}},
        {"num_hidden_layers": None},
        {"vocab_size": -4},
    ],
    ids=str,
)
def test_settings_that_make_no_model(values: dict[str, Any], folder: Path, rows: list[Any]) -> None:
    """Whatever transformers raises: one error that names the model, from all who load it."""
    change(folder / "config.json", **values)
    for call in (plan, evaluate):
        with pytest.raises(ValueError, match=f"{folder}"):
            call(folder, rows, prompt=PROMPT, config={"device": "cpu"})


def test_what_transformers_says_is_one_line_and_bounded(folder: Path) -> None:
    """It lists all kinds of models that it knows, or a page of advice."""
    for values in ({"model_type": None}, {"model_type": "x" * 5000}):
        change(folder / "config.json", **values)
        with pytest.raises(ValueError, match=f"cannot load the model {folder}: ") as caught:
            load_lm(folder, device="cpu")
        assert len(str(caught.value)) < 500 + len(str(folder))
        assert "\n" not in str(caught.value)


def test_no_memory_for_the_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(ValueError, match=r"cannot load the model .*: there is not enough memory"):
        load_lm(folder, device="cpu")


def test_a_hub_that_is_not_there_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client waits and tries again five times."""
    asked: list[Any] = []

    def unreachable(*args: Any, **_: Any) -> Any:
        asked.append(args)
        raise socket.gaierror("Name or service not known")

    def waited(_: float) -> None:
        raise AssertionError("it was tried again")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.getaddrinfo", unreachable)
    monkeypatch.setattr("time.sleep", waited)
    with pytest.raises(ValueError, match=r"model some/name: .*cannot be asked: .*not known"):
        read_config(locate("some/name", "some/name"))
    assert asked


def test_a_pair_is_two(tokenizer: Any) -> None:
    model = tiny_model("llama", len(tokenizer))
    assert load_lm((model, tokenizer)).model is model
    with pytest.raises(ValueError, match="got tuple, expected a model name"):
        load_lm((model, tokenizer, 1))


@pytest.mark.parametrize(
    ("has_gpu", "has_bfloat16", "expected"),
    [(True, True, "bfloat16"), (True, False, "float16"), (False, False, "bfloat16")],
)
def test_a_gpu_that_imitates_bfloat16_takes_float16(
    has_gpu: bool, has_bfloat16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A T4 says that it supports bfloat16, and means that it computes in float32."""

    def is_supported(including_emulation: bool = True) -> bool:
        return including_emulation or has_bfloat16

    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    for device in ("cuda", "cuda:1"):
        assert weights_dtype(device, None) == getattr(torch, expected)
        assert weights_dtype(device, "bfloat16") == torch.bfloat16
    assert weights_dtype("cpu", None) == weights_dtype("cpu:0", None) == torch.float32
    assert weights_dtype("mps", None) == torch.bfloat16


def test_a_gguf_file_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its repository's name and its own; what lies here goes before."""
    asked: list[tuple[str, str]] = []
    cached = tmp_path / "cache" / "x-Q4.gguf"

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        if file != "sub/x-Q4.gguf":
            raise FileNotFoundError(f"no {file} there")
        return str(cached)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(files, "_check_reachable", lambda _: None)
    name = "owner/X-GGUF/sub/x-Q4.gguf"
    expected = ModelFiles(name, str(cached.parent), {"gguf_file": "x-Q4.gguf"})
    assert locate(name, name) == expected
    with pytest.raises(ValueError, match=r"no GGUF file at o/r/y\.gguf, and none .* no y\.gguf"):
        locate("y", "o/r/y.gguf")
    assert asked == [("owner/X-GGUF", "sub/x-Q4.gguf"), ("o/r", "y.gguf")]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for local in ("mine/r/y.gguf", "y.gguf", "r/y.gguf", str(tmp_path / "a" / "b" / "y.gguf")):
        with pytest.raises(ValueError, match=r"no GGUF file at \S+$"):
            locate("y", local)


def test_a_gguf_file_of_the_hub_that_is_here_asks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine without a network, for which it was fetched before."""
    cached = tmp_path / "models--o--r" / "snapshots" / "abc" / "x.gguf"
    cached.parent.mkdir(parents=True)
    cached.touch()
    (tmp_path / "models--o--r" / "refs").mkdir()
    (tmp_path / "models--o--r" / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert locate("x", "o/r/x.gguf").path == str(cached.parent)


def test_a_repository_without_a_config_is_told_what_it_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(path: str, **_: Any) -> Any:
        raise OSError(f"{path} does not appear to have a file named config.json.")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", load)
    monkeypatch.setattr(files, "_check_reachable", lambda _: None)
    with pytest.raises(ValueError, match=r"name one, as owner/repository/file\.gguf; an adapter"):
        read_config(ModelFiles("x", "owner/x", {}))


def test_tokenizers_are_those_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where mistral-common is installed, transformers gives out its, which is no fast one."""

    class MistralCommonBackend:
        pass

    asked: list[dict[str, Any]] = []

    def load(path: str, **options: Any) -> Any:
        asked.append(options)
        return "fast" if options.get("mistral_format") is False else MistralCommonBackend()

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", load)
    monkeypatch.setattr(files, "_check_reachable", lambda _: None)
    assert read_tokenizer(ModelFiles("x", "owner/x", {})) == "fast"
    assert [options.get("mistral_format") for options in asked] == [None, False]
