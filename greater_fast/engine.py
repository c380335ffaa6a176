"""Which engine runs the rollouts."""

from __future__ import annotations

from greater_fast.config import Config
from greater_fast.lm import LM
from greater_fast.plain_rollout import PlainRolloutEngine
from greater_fast.rollout import Engine, RolloutEngine


def make_engine(lm: LM, config: Config) -> Engine:
    """The engine that the settings name; `auto` takes the paged one where there is one.

    Raises:
        ValueError: the model cannot use the paged engine; says why, and what to use instead.
    """
    if config.engine == "generate" or (config.engine == "auto" and lm.device.type != "cpu"):
        return PlainRolloutEngine(lm, config.batch_size, config.temperature)
    return RolloutEngine(
        lm,
        temperature=config.temperature,
        kv_cache_bytes=config.kv_cache_bytes,
        draft_tokens=config.draft_tokens,
    )
