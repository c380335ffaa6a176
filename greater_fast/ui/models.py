"""Names of models that a user may choose without typing: those that are on this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from greater_fast.model.smollm2 import SMOLLM2, smollm2_source

# How architectures end that write text, and those that see, too, where they have a part for text.
_GENERATING, _SEEING = ("ForCausalLM", "LMHeadModel"), "ForConditionalGeneration"


def models_here() -> list[str]:
    """The demonstration model, where it is installed, and hub models that were downloaded."""
    return [*_demonstration(), *_downloaded()]


def _demonstration() -> list[str]:
    try:
        smollm2_source()
    except ValueError:
        return []
    return [SMOLLM2]


def _downloaded() -> list[str]:
    """Language models in the hub's cache: by their names, and GGUF files by their paths."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError, ValueError):
        return []
    found = set[str]()
    for repository in repositories:
        if repository.repo_type != "model":
            continue
        for revision in repository.revisions:
            found |= {str(f.file_path) for f in revision.files if _is_whole_file(f.file_name)}
            if _is_language_model(revision.files):
                found.add(repository.repo_id)
    return sorted(found)


def _is_whole_file(name: str) -> bool:
    """Whether a file is a language model by itself: no part of one, and no part for images."""
    return name.endswith(".gguf") and not re.search(r"mmproj|-\d+-of-\d+\.gguf$", name)


def _is_language_model(files: Iterable[Any]) -> bool:
    """Whether files are weights that can be read, of a language model by its configuration."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    paths = {file.file_name: file.file_path for file in files}
    if not any(name.endswith(".safetensors") for name in paths) or "config.json" not in paths:
        return False
    try:
        config = json.loads(paths["config.json"].read_text(encoding="utf-8"))
        kind, architectures = config["model_type"], config["architectures"]
        endings = (*_GENERATING, *([_SEEING] if "text_config" in config else []))
        generates = any(name.endswith(tuple(endings)) for name in architectures)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return generates and kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
