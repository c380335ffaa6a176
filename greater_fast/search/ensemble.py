"""Several models of one tokenizer, searched at once: a prompt is judged by its rows on each."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from greater_fast.engine import Engine, OnFinished, Rollout, RolloutRequest
from greater_fast.model.lm import LM
from greater_fast.ranks import ALONE, Ranks
from greater_fast.search.state import LoopState


class Ensemble:
    """The engines of several models, in the place of one.

    A prompt has a rollout for each row of each model, model after model: what is counted, averaged
    and bounded over the rows of one model is so over those of all, and the objective of N rows each
    is the mean of the models' own. Ids are the same for all, hence one layout. A gradient, an
    embedding and a context's keys and values are of one model: stages ask `members` for them.
    """

    ranks: Ranks = ALONE

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = tuple(engines)

    @property
    def lm(self) -> LM:
        """The first model: the device is that of all."""
        return self.engines[0].lm

    @property
    def num_generated_tokens(self) -> int:
        """Of all models, end ids included."""
        return sum(engine.num_generated_tokens for engine in self.engines)

    def run(
        self, requests: Sequence[RolloutRequest], on_finished: OnFinished | None = None
    ) -> list[Rollout | None]:
        """Rollouts in the order of the requests, each of its model; None where one was dropped.

        One model runs after the other: a group that one has dropped costs the next ones nothing.
        """
        rollouts: list[Rollout | None] = [None] * len(requests)
        dropped: set[int] = set()
        for model, engine in enumerate(self.engines):
            own = [
                number
                for number, request in enumerate(requests)
                if request.model == model and request.group not in dropped
            ]

            def finished(place: int, rollout: Rollout, own: list[int] = own) -> Collection[int]:
                groups = on_finished(own[place], rollout) if on_finished else ()
                dropped.update(groups)
                return groups

            found = engine.run([requests[number] for number in own], finished) if own else []
            for number, rollout in zip(own, found, strict=True):
                rollouts[number] = rollout
        return rollouts


Models = Engine | Ensemble


def members(models: Models) -> tuple[Engine, ...]:
    """The engine of each model; one alone is its only member."""
    return models.engines if isinstance(models, Ensemble) else (models,)


def by_model(models: Models, state: LoopState) -> list[tuple[Engine, LoopState]]:
    """Each model's engine with the state as that model has come to it: its own rollouts."""
    engines = members(models)
    if len(engines) == 1:
        return [(engines[0], state)]
    num_rows = len(state.incumbent.rollouts) // len(engines)
    starts = range(0, len(state.incumbent.rollouts), num_rows)
    shares = (state.of_places(slice(start, start + num_rows)) for start in starts)
    return list(zip(engines, shares, strict=True))


def places_of(models: Models, num_rows: int) -> list[tuple[int, int]]:
    """The model and the row of each rollout of a prompt: the rows of each model in turn."""
    return [(model, row) for model in range(len(members(models))) for row in range(num_rows)]
