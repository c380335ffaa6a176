"""Which rows fit the model's context, with all that they may come to."""

from __future__ import annotations

from collections.abc import Sequence

from greater_fast.config import Config
from greater_fast.model.lm import LM

_ADVICE = "lower max_new_tokens or max_prompt_tokens, or on_long='drop'"


def which_fit(
    lm: LM, needs: Sequence[int], names: Sequence[str], config: Config, advice: str = _ADVICE
) -> tuple[list[int], tuple[str, ...]]:
    """Numbers of the rows that fit with prompt and reasoning at their longest; a note on others.

    `needs` are the tokens of each row but for these two, `names` the rows' for a reader, `advice`
    is what an error says to do.

    Raises:
        ValueError: some do not fit, and are not to be dropped; or none fits.
    """
    everything = list(range(len(needs)))
    if lm.max_context is None:
        return everything, ()
    room = lm.max_context - config.max_prompt_tokens - config.max_new_tokens
    long = {number for number, need in enumerate(needs) if need > room}
    if not long:
        return everything, ()
    named = ", ".join(names[n] for n in sorted(long)[:5]) + (", ..." if len(long) > 5 else "")
    what = (
        f"{len(long)} of {len(needs)} rows do not fit the context of {lm.max_context} tokens with "
        f"{config.max_prompt_tokens} prompt and {config.max_new_tokens} reasoning tokens: "
        f"{named}; the longest needs {max(needs) - room} tokens more"
    )
    if config.on_long == "error":
        raise ValueError(f"{what}; {advice}")
    kept = [number for number in everything if number not in long]
    if not kept:
        raise ValueError(f"{what}; dropping them leaves none")
    return kept, (f"dropped: {what}",)
