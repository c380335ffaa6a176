"""Where a model's files are, and what they say before any of its weights is read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from greater_fast.config_checks import guess
from greater_fast.model.attention.gguf_rotary import complete_attention
from greater_fast.model.byte_sizes import is_out_of_memory
from greater_fast.model.checks import said
from greater_fast.model.smollm2 import SMOLLM2
from greater_fast.wording import in_one_line, quoted

_PICKLES = ("pytorch_model*.bin", "consolidated*.pth")
_NO_CONFIG = (
    "of a repository of GGUF files name one, as owner/repository/file.gguf; an adapter is merged "
    "into its model first"
)
_NO_PICKLES = (
    "weights are read from safetensors and GGUF alone, for reading a pickle can run any code; if "
    "you trust it, convert it by AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)"
)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """`name` as a user wrote it; `path` and `options` as transformers' loaders take them."""

    name: str
    path: str
    options: dict[str, str]


def locate(name: str, source: str | Path) -> ModelFiles:
    """The files of a model at `source`, a hub name, a folder or a GGUF file.

    Raises:
        ValueError: no such GGUF file, or a folder whose weights are not read here: an adapter's, or
            pickles.
    """
    try:
        path = Path(source).expanduser()
    except RuntimeError:  # nobody's home
        path = Path(source)
    if path.suffix == ".gguf":
        if not path.is_file():
            path = _gguf_of_hub(path)
        return ModelFiles(name, str(path.parent), {"gguf_file": path.name})
    if not path.is_dir():
        return ModelFiles(name, str(source), {})
    if (path / "adapter_config.json").is_file():
        raise ValueError(
            f"{name} is an adapter for {_base_of_adapter(path)}: merge it into that model (PEFT's "
            "merge_and_unload), and pass the pair (model, tokenizer) or a folder they are saved in"
        )
    pickles = [file.name for kind in _PICKLES for file in path.glob(kind)]
    if pickles and not any(path.glob("*.safetensors")):
        raise ValueError(f"the weights of {name} are pickles ({min(pickles)}): {_NO_PICKLES}")
    return ModelFiles(name, str(path), {})


def _gguf_of_hub(path: Path) -> Path:
    """The file `owner/repository/name.gguf` of the hub, as it lies in its cache."""
    owner, _, name = path.as_posix().partition("/")
    repository, _, file = name.partition("/")
    if path.is_absolute() or not file or Path(owner).is_dir():
        raise ValueError(f"no GGUF file at {path}")
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(f"{owner}/{repository}", file)
    if isinstance(cached, str):
        return Path(cached)
    try:
        _check_reachable(f"{owner}/{repository}")
        return Path(hf_hub_download(f"{owner}/{repository}", file))
    except Exception as error:
        raise ValueError(
            f"no GGUF file at {path}, and none to be had from the hub: {_explained(error)}"
        ) from error


def read_config(files: ModelFiles) -> Any:
    """The configuration of a causal language model.

    Raises:
        ValueError: there is none, or it is that of another kind of model.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    )

    with clear_load_errors(files.name):
        _check_reachable(files.path)
        config: Any = AutoConfig.from_pretrained(
            files.path, trust_remote_code=False, **files.options
        )
        if files.options:
            complete_attention(config, Path(files.path) / files.options["gguf_file"])
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        writes = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        how = "load it by AutoModelForImageTextToText, and pass the pair (model, tokenizer)"
        raise ValueError(
            f"{files.name} is a {config.model_type} model, expected a causal language model "
            f"(one that AutoModelForCausalLM loads){f': {how}' if writes else ''}"
        )
    return config


def read_tokenizer(files: ModelFiles) -> Any:
    """The tokenizer of a model.

    Raises:
        ValueError: there is none that can be used.
    """
    from transformers import AutoTokenizer

    try:
        _check_reachable(files.path)
        load = partial(
            AutoTokenizer.from_pretrained, files.path, trust_remote_code=False, **files.options
        )
        tokenizer: Any = load()
        if type(tokenizer).__name__.startswith("MistralCommon"):  # where that package is installed
            tokenizer = load(mistral_format=False)
        return tokenizer
    except Exception as error:
        raise ValueError(
            f"no usable tokenizer for {files.path}: {_explained(error)}; for a loaded model pass "
            "(model, tokenizer)"
        ) from error


@contextlib.contextmanager
def clear_load_errors(name: str) -> Iterator[None]:
    """Turn what transformers raises, of any class, into a ValueError that names the model."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"cannot load the model {name}: {_explained(error)}") from error


def _explained(error: Exception) -> str:
    """What an error of transformers comes to, and what to do where that is known."""
    if "trust_remote_code" in str(error):
        return (
            "it comes with code of its own, which is not run here: if you trust it, load the model "
            "yourself with trust_remote_code=True, and pass the pair (model, tokenizer)"
        )
    if is_out_of_memory(error):
        return f"there is not enough memory for it ({said(error)})"
    if not isinstance(error, OSError | ValueError | ImportError):
        return said(error)
    text = in_one_line(error)
    if "model.safetensors" in text:
        return f"{text} ({_NO_PICKLES})"
    return f"{text} ({_NO_CONFIG})" if "have a file named config.json" in text else text


def _base_of_adapter(folder: Path) -> str:
    """The model that an adapter's settings name."""
    try:
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return str(settings["base_model_name_or_path"])
    except (OSError, ValueError, LookupError, TypeError):
        return "a model that its adapter_config.json does not name"


def _check_reachable(path: str) -> None:
    """Ask the hub once whether it is there, for what is neither a folder here nor in its cache.

    Its client would try for half a minute.

    Raises:
        OSError: it is not there.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    if Path(path).exists():
        return
    try:
        if not isinstance(try_to_load_from_cache(path, "config.json"), str):
            get_hf_file_metadata(hf_hub_url(path, "config.json"), timeout=10)
    except (HfHubHTTPError, ValueError):  # an answer, or no name that the hub has: said elsewhere
        return
    except Exception as error:
        raise OSError(
            f"it is no folder here, not in the hub's cache, and the hub cannot be asked: "
            f"{said(error)}{guess(path, [SMOLLM2])}"
        ) from error


def usable_device(device: str | None) -> str:
    """The device that was named, else a GPU where there is one, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:  # half a character, for one
        raise ValueError(
            f"device: got {quoted(device)}, which is not to be had here: {in_one_line(error)}"
        ) from error
    return device


def weights_dtype(device: str | None, dtype: str | None) -> torch.dtype:
    """The dtype that was named, else float32 on a CPU and 16 bits elsewhere.

    These are bfloat16, or float16 on a GPU here that only imitates bfloat16 (under compute
    capability 8.0).
    """
    if dtype is None:
        on_cpu = device is not None and torch.device(device).type == "cpu"
        dtype = "float32" if on_cpu else "bfloat16"
        if device is not None and device.startswith("cuda") and _imitates_bfloat16(device):
            dtype = "float16"
    kind: torch.dtype = getattr(torch, dtype)
    return kind


def _imitates_bfloat16(device: str) -> bool:
    if not torch.cuda.is_available():
        return False
    with torch.cuda.device(device):
        return not torch.cuda.is_bf16_supported(including_emulation=False)
