"""Settings that change nothing beside the others, which a user of them should know."""

from __future__ import annotations

import dataclasses

from greater_fast.config import Config


def idle_settings(config: Config) -> tuple[str, ...]:
    """Settings that are not the defaults and change nothing, with the reason, a line each."""
    changed = {f.name for f in dataclasses.fields(config) if getattr(config, f.name) != f.default}
    of_reasonings = {"reasonings", "num_reasonings", "reasoning_weight"}
    cases = (
        (config.shortlist == "random", {"gradient"}, "a random shortlist is ranked by none"),
        (not config.asks_for_reasonings, of_reasonings, "no gradient of reasonings is taken"),
        (config.gradient == "reasoning", {"reasoning_weight"}, "there is no other gradient"),
        (config.objective == "loss", {"metric"}, "objective 'loss' selects; evaluation takes it"),
    )
    return tuple(
        f"{' and '.join(sorted(idle))}: without effect on the search, as {why}"
        for applies, names, why in cases
        if applies and (idle := names & changed)
    )
