"""Where a chain of places stands: its prompt, and the reasonings that were written until then."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from benchmarks.evidence.chains import Ids, Outcomes, Place
from greater_fast.config import Config
from greater_fast.engine import Rollout
from greater_fast.search.reasonings import ReasoningStore


@dataclass(slots=True)
class ChainState:
    """Where a chain stands: all of it follows from its places and the first prompt's outcomes.

    `writers` are the prompts that first wrote a reasoning, by row and written ids.
    """

    prompt_ids: Ids
    outcomes: Outcomes  # of that prompt alone
    end_ids: frozenset[int]
    num_scored: int
    store: ReasoningStore = field(default_factory=ReasoningStore)
    writers: dict[tuple[int, Ids], Ids] = field(default_factory=dict)

    def add(self, place: Place, config: Config) -> None:
        """Go on behind a place."""
        for number in range(1, len(place.outcomes.is_right)):
            self.keep(place.prompt(number), place.outcomes.of(number), config)
        self.prompt_ids = place.prompt(place.winner)
        self.outcomes = place.outcomes.of(place.winner)

    def keep(self, prompt_ids: Ids, outcomes: Outcomes, config: Config) -> None:
        """Take in the reasonings of one prompt."""
        own = rollouts_of(outcomes, self.end_ids)[: self.num_scored]
        self.store.add(own, config.num_reasonings)
        for row, written in enumerate(outcomes.reasonings[0][: self.num_scored]):
            self.writers.setdefault((row, written), prompt_ids)


def written_ids(rollout: Rollout) -> Ids:
    """What was written, its end id included."""
    end = () if rollout.end_id is None else (rollout.end_id,)
    return (*rollout.reasoning_ids, *end)


def rollouts_of(outcomes: Outcomes, end_ids: Collection[int]) -> list[Rollout]:
    """The rollouts of outcomes of one prompt, as far as gradients and stores read them."""
    found = []
    for written, is_right in zip(outcomes.reasonings[0], outcomes.is_right[0], strict=True):
        end = written[-1] if written[-1] in end_ids else None
        ids = written if end is None else written[:-1]
        found.append(Rollout(ids, answer_hits=(bool(is_right),), end_id=end))
    return found
