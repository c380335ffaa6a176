"""When a search can run on the engine that a front end's language model has."""

from __future__ import annotations

from greater_fast.config import Config
from greater_fast.engine import Engine
from greater_fast.search.checks import other_decoding

_OF_ENGINE = (
    *("batch_size", "draft_tokens", "engine", "kernels", "kv_cache_bytes", "max_step_tokens"),
)


def can_search(engine: Engine, made_with: Config, config: Config) -> bool:
    """Whether an engine that was made with some settings is one for others, too."""
    is_same = all(getattr(config, name) == getattr(made_with, name) for name in _OF_ENGINE)
    return is_same and other_decoding(engine, config) is None
