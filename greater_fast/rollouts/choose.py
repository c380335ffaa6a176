"""Which engine runs the rollouts."""

from __future__ import annotations

import logging
from dataclasses import replace

from greater_fast.config import Config
from greater_fast.engine import Engine
from greater_fast.model.attention.interface import steady_length
from greater_fast.model.attention.kernels import without_cudnn
from greater_fast.model.byte_sizes import is_out_of_memory
from greater_fast.model.checks import UnsupportedModelError
from greater_fast.model.kv_cache import BLOCK_SIZE, default_pool_bytes
from greater_fast.model.lm import LM
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.plain import PlainRolloutEngine
from greater_fast.rollouts.steps.step_size import GIVEN_TOKENS
from greater_fast.wording import printable

_log = logging.getLogger("greater_fast")


def make_engine(
    lm: LM,
    config: Config,
    longest_sequence: int | None = None,
    num_sequences: int | None = None,
) -> tuple[Engine, str]:
    """The engine that the settings name, and a line that says which one it is.

    `auto` takes the paged engine where the model can use it, else the plain one, with the reason,
    which is logged as a warning too. What the settings ask for and cannot be had is refused.

    Args:
        lm: the model.
        config: its settings.
        longest_sequence: tokens of a sequence at most; None where that is not known: then as many
            as model and pool can hold, with a long RoPE those before its other factors.
        num_sequences: how many are run at a time; None for a shortlist on all training rows.

    Raises:
        ValueError: the kernels that were forced cannot run here, the model cannot use the engine
            that was named, or its pool is too small for the longest sequence; says what to change.
    """
    if num_sequences is None:
        num_sequences = config.shortlist_size * config.num_train
    with lm.lock, without_cudnn():  # what is tried changes the model for a while
        try:
            return _make_engine(lm, config, longest_sequence, num_sequences)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ValueError(
                f"the engine does not fit the memory of {lm.device}: lower kv_cache_bytes, "
                "max_step_tokens or batch_size"
            ) from error


def _make_engine(
    lm: LM, config: Config, longest_sequence: int | None, num_sequences: int
) -> tuple[Engine, str]:
    config = _alike(lm, config)
    lm.fused_head(config.kernels)  # what is forced and cannot run is refused now, not in a step
    if config.engine == "generate":
        return _plain(lm, config, longest_sequence, "")
    try:
        paged = RolloutEngine(
            lm,
            temperature=config.temperature,
            sampling_temperature=config.sampling_temperature,
            draws=config.draws_reasonings,
            seed=config.seed,
            kv_cache_bytes=config.kv_cache_bytes,
            max_tokens=config.max_step_tokens,
            draft_tokens=config.draft_tokens,
            kernels=config.kernels,
            longest_sequence=longest_sequence or _steady_blocks(lm),
            num_sequences=num_sequences,
        )
    except UnsupportedModelError as error:
        if config.engine != "auto":
            raise
        plain, note = _plain(lm, config, longest_sequence, f" ({error})")
        _log.warning("%s", printable(note))  # now: it takes several times as long
        return plain, note
    if longest_sequence and longest_sequence > paged.max_sequence_tokens:
        needed = -(-longest_sequence // paged.block_size) * paged.block_bytes
        raise ValueError(
            f"kv_cache_bytes: the pool of {paged.kv_cache_bytes} bytes holds sequences of "
            f"{paged.max_sequence_tokens} tokens, but one may take {longest_sequence}: give it "
            f"{needed} at least, or lower max_new_tokens or max_prompt_tokens"
        )
    if paged.step_ms:
        table = ", ".join(f"{size}: {ms:.2f}" for size, ms in paged.step_ms.items())
        _log.info("milliseconds of a step by its tokens: %s", table)
    return paged, _describe(paged)


def _steady_blocks(lm: LM) -> int | None:
    """Tokens of whole blocks within which a model's rotary embeddings know no length; None: any."""
    return (steady_length(lm) or 0) // BLOCK_SIZE * BLOCK_SIZE or None


def _alike(lm: LM, config: Config) -> Config:
    """The settings, with what else each of the ranks that share a model would measure for itself.

    Their steps must be of one size, and there is no timing them: one rank would take more than
    another, and wait for it in vain.
    """
    if lm.ranks.size == 1:
        return config
    own = config.kv_cache_bytes or default_pool_bytes(lm.device)
    return replace(
        config,
        kv_cache_bytes=min(lm.ranks.gathered(own)),
        max_step_tokens=config.max_step_tokens or GIVEN_TOKENS,
    )


def _plain(lm: LM, config: Config, longest_sequence: int | None, reason: str) -> tuple[Engine, str]:
    """The plain engine, and which one it is and why."""
    engine = PlainRolloutEngine(
        lm,
        config.batch_size,
        config.temperature,
        sampling_temperature=config.sampling_temperature,
        draws=config.draws_reasonings,
        seed=config.seed,
        kernels=config.kernels,
        longest_sequence=longest_sequence,
    )
    way = str(engine.way)
    return engine, f"engine: generate{reason}" + (f"; {way}" if way else "")


def _describe(engine: RolloutEngine) -> str:
    """Which engine it is, and what a user should know of it."""
    line = "engine: paged"
    if engine.fixed:  # a row's last bits depend on it
        line += f", {engine.max_tokens} tokens a step"
    if no_graph := engine.facts().no_graph:
        line += f", without a CUDA graph: {no_graph}"
    if not engine.batch_invariant:
        line += (
            "; a row's bits depend on what is computed beside it: where two tokens are nearly as "
            "likely, reasoning may differ between runs that differ in their batches alone"
        )
    return "; ".join(filter(None, (line, engine.layers.note)))
