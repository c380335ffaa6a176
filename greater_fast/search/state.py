"""All state of the loop, in one object that can be written down: where it is, and what it knows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from greater_fast.config import Config
from greater_fast.engine import Rollout
from greater_fast.examples.layout import Layouts
from greater_fast.model.text.scripts import ends_sentence
from greater_fast.search.nouns import Objective, Position, Scored
from greater_fast.search.reasonings import ReasoningStore


@dataclass(slots=True)
class LoopState:
    """The incumbent prompt, the next position, and every prompt tried so far.

    `scored` keeps its order of first scoring; the incumbent is always in it, with its rollouts.
    `given_up` says of prompts that were not scored to the end which objective theirs is over.
    `dropped` has the rows of those that a race dropped, which proves nothing of them. They are not
    raced again: the objective of an incumbent that competes only falls on these rows, though not
    always its errors, which a race looks at: fluency counts a little. Without a race they are tried
    like any other. `reasonings` are those that the gradient may ask for. `scored_with` is a
    digest of rows and settings that objectives depend on; it is not written, and empty if unknown.
    """

    incumbent: Scored
    step: int = 0
    index: int = 0
    changed_in_sweep: bool = False
    scored: dict[tuple[int, ...], Scored] = field(default_factory=dict)
    given_up: dict[tuple[int, ...], float] = field(default_factory=dict)
    dropped: dict[tuple[int, ...], int] = field(default_factory=dict)
    reasonings: ReasoningStore = field(default_factory=ReasoningStore)
    scored_with: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        self.scored.setdefault(self.incumbent.prompt_ids, self.incumbent)

    def add(self, found: Scored, config: Config) -> None:
        """Take in a prompt that was scored to the end just now."""
        self.scored[found.prompt_ids] = found
        self.given_up.pop(found.prompt_ids, None)
        self._store(found, config)

    def _store(self, found: Scored, config: Config) -> None:
        if config.asks_for_reasonings and not config.draws_reasonings:
            self.reasonings.add(found.rollouts, config.num_reasonings)

    def restock(self, config: Config) -> None:
        """Store the reasonings of all prompts anew: a search before may not have asked for any.

        Where the rollouts of some are not known, what is stored stays.
        """
        if config.asks_for_reasonings and all(own.rollouts for own in self.scored.values()):
            self.reasonings = ReasoningStore()
            for found in self.scored.values():
                self._store(found, config)

    def next_position(self, layouts: Layouts, config: Config) -> Position | None:
        """The place to try next, or None at the end: steps done, or a whole sweep unchanged.

        With `stop_unchanged` off the steps alone end it, or a prompt without any place.
        Behind its last token a prompt that ends no sentence tries to grow, up to the maximum. A
        token that is part of a character is no place: no other gives a text there.
        """
        if self.step >= config.steps:
            return None
        prompt_ids = self.incumbent.prompt_ids
        places = [i for i, token in enumerate(prompt_ids) if not layouts.cuts_a_character(token)]
        text = layouts.prompt_text(prompt_ids)
        if len(prompt_ids) < config.max_prompt_tokens and not ends_sentence(text):
            places.append(len(prompt_ids))
        ahead = [i for i in places if i >= self.index]
        if not ahead and (self.changed_in_sweep or not config.stop_unchanged):
            ahead, self.changed_in_sweep = places, False
        if not ahead:
            return None
        self.index = ahead[0]
        return Position(self.step, self.index, prompt_ids)

    def accept(self, winner: Scored) -> bool:
        """Take the winner of a step and move on by one position; whether the prompt changed."""
        changed = winner.prompt_ids != self.incumbent.prompt_ids
        self.incumbent = winner
        self.changed_in_sweep |= changed
        self.step += 1
        self.index += 1
        return changed

    def of_places(self, places: slice) -> LoopState:
        """The state with some of the incumbent's rollouts alone, and what is stored beside them."""
        incumbent = replace(self.incumbent, rollouts=self.incumbent.rollouts[places])
        reasonings = ReasoningStore(self.reasonings.rows[places])
        return replace(self, incumbent=incumbent, reasonings=reasonings)

    def best(self, number: int, config: Config) -> list[Scored]:
        """The best prompts by objective, of equals the one scored first."""
        return sorted(self.scored.values(), key=lambda s: s.objective.value(config))[:number]

    def copy(self) -> LoopState:
        """The state as it is now: what changes the original later does not change it."""
        return replace(
            self,
            scored=dict(self.scored),
            given_up=dict(self.given_up),
            dropped=dict(self.dropped),
            reasonings=ReasoningStore(list(self.reasonings.rows)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the incumbent's rollouts, all objectives, stored reasonings.

        Rollouts of other prompts would make it long: `rollouts_of` has them, prompt by prompt.
        """
        return {
            "step": self.step,
            "index": self.index,
            "changed_in_sweep": self.changed_in_sweep,
            "incumbent_ids": self.incumbent.prompt_ids,
            "incumbent_rollouts": [r.to_dict() for r in self.incumbent.rollouts],
            "scored": [
                {"prompt_ids": s.prompt_ids, "objective": asdict(s.objective)}
                for s in self.scored.values()
            ],
            "given_up": [
                {"prompt_ids": ids, "objective_over": bound} for ids, bound in self.given_up.items()
            ],
            "dropped": [
                {"prompt_ids": ids, "num_rows": number} for ids, number in self.dropped.items()
            ],
            "reasonings": self.reasonings.to_list(),
        }

    @classmethod
    def from_dict(
        cls, values: dict[str, Any], rollouts: Iterable[dict[str, Any]] = ()
    ) -> LoopState:
        """The state that `to_dict` wrote; `rollouts` are what `rollouts_of` gave of each prompt.

        Prompts other than the incumbent that are not among them have none.
        """
        known = {
            tuple(of["prompt_ids"]): tuple(map(Rollout.from_dict, of["rollouts"]))
            for of in rollouts
        }
        incumbent_ids = tuple(values["incumbent_ids"])
        known[incumbent_ids] = tuple(map(Rollout.from_dict, values["incumbent_rollouts"]))
        scored = {}
        for entry in values["scored"]:
            ids = tuple(entry["prompt_ids"])
            scored[ids] = Scored(ids, Objective(**entry["objective"]), known.get(ids, ()))
        return cls(
            incumbent=scored[incumbent_ids],
            step=values["step"],
            index=values["index"],
            changed_in_sweep=values["changed_in_sweep"],
            scored=scored,
            given_up={tuple(g["prompt_ids"]): g["objective_over"] for g in values["given_up"]},
            dropped={tuple(d["prompt_ids"]): d["num_rows"] for d in values.get("dropped", ())},
            reasonings=ReasoningStore.from_list(values.get("reasonings", ())),
        )


def rollouts_of(scored: Scored) -> dict[str, Any]:
    """A prompt's rollouts as plain values for JSON."""
    return {
        "prompt_ids": scored.prompt_ids,
        "rollouts": [rollout.to_dict() for rollout in scored.rollouts],
    }
