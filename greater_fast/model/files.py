"""Where a model's files are, and what they say before any of its weights is read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """`name` as a user wrote it; `path` and `options` as transformers' loaders take them."""

    name: str
    path: str
    options: dict[str, str]


def locate(name: str, source: str | Path) -> ModelFiles:
    """The files of a model at `source`, a hub name, a folder or a GGUF file.

    Raises:
        ValueError: no such GGUF file.
    """
    path = str(source)
    if not path.endswith(".gguf"):
        return ModelFiles(name, path, {})
    if not Path(path).is_file():
        raise ValueError(f"no GGUF file at {path}")
    return ModelFiles(name, str(Path(path).parent), {"gguf_file": Path(path).name})


def read_config(files: ModelFiles) -> Any:
    """The configuration of a causal language model.

    Raises:
        ValueError: there is none, or it is that of another kind of model.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    with clear_load_errors(files.name):
        config: Any = AutoConfig.from_pretrained(files.path, **files.options)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(
            f"{files.name} is a {config.model_type} model, expected a causal language model "
            "(one that AutoModelForCausalLM loads)"
        )
    return config


def read_tokenizer(path: str, **options: str) -> Any:
    """The tokenizer of a model.

    Raises:
        ValueError: there is none that can be used.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, **options)
        return tokenizer
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ValueError(
            f"no usable tokenizer for {path}: {error}; for a loaded model pass (model, tokenizer)"
        ) from error


@contextlib.contextmanager
def clear_load_errors(name: str) -> Iterator[None]:
    """Turn what transformers raises into a ValueError that names the model."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise ValueError(f"cannot load the model {name}: {error}") from error


def usable_device(device: str | None) -> str:
    """The device that was named, else a GPU where there is one, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: got {device!r}, which is not to be had here: {error}") from error
    return device


def weights_dtype(device: str | None, dtype: str | None) -> torch.dtype:
    """The dtype that was named, else float32 on a CPU and bfloat16 elsewhere."""
    kind: torch.dtype = getattr(torch, dtype or ("float32" if device == "cpu" else "bfloat16"))
    return kind
