"""Names of models that a user may choose without typing: those that are on this machine."""

from __future__ import annotations

from greater_fast.model.smollm2 import SMOLLM2, smollm2_source

_WEIGHTS = (".safetensors", ".gguf")


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
    """Models in the hub's cache whose weights can be read."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError, ValueError):
        return []
    return sorted(
        repository.repo_id
        for repository in repositories
        if repository.repo_type == "model"
        and any(
            file.file_name.endswith(_WEIGHTS)
            for revision in repository.revisions
            for file in revision.files
        )
    )
