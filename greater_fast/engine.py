"""Which engine runs the rollouts."""

from __future__ import annotations

from greater_fast.config import KV_CACHE_BYTES, Config
from greater_fast.lm import LM
from greater_fast.plain_rollout import PlainRolloutEngine
from greater_fast.rollout import Engine, RolloutEngine


def make_engine(lm: LM, config: Config, longest_sequence: int = 1) -> tuple[Engine, str]:
    """The engine that the settings name, and a line that says which one it is.

    `auto` takes the paged engine where the model can use it, else the plain one, with the reason.

    Raises:
        ValueError: the model cannot use the engine that was named, or its pool is too small for a
            sequence of `longest_sequence` tokens; says what to change.
    """
    plain = PlainRolloutEngine(
        lm,
        config.batch_size,
        config.temperature,
        sampling_temperature=config.sampling_temperature,
        seed=config.seed,
    )
    if config.engine == "generate":
        return plain, "engine: generate"
    pool_bytes = config.kv_cache_bytes or KV_CACHE_BYTES
    try:
        paged = RolloutEngine(
            lm,
            temperature=config.temperature,
            sampling_temperature=config.sampling_temperature,
            seed=config.seed,
            kv_cache_bytes=pool_bytes,
            draft_tokens=config.draft_tokens,
        )
    except ValueError as error:
        if config.engine == "auto":
            return plain, f"engine: generate ({error})"
        raise
    if longest_sequence > paged.max_sequence_tokens:
        needed = -(-longest_sequence // paged.block_size) * paged.block_bytes
        raise ValueError(
            f"kv_cache_bytes: the pool of {pool_bytes} bytes holds sequences of "
            f"{paged.max_sequence_tokens} tokens, but one may take {longest_sequence}: give it "
            f"{needed} at least, or lower max_new_tokens or max_prompt_tokens"
        )
    return paged, "engine: paged"
