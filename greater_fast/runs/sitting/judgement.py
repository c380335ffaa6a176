"""What a user's judge makes of the finalists of a run, where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from greater_fast.model.byte_sizes import callers_errors
from greater_fast.ranks import Ranks
from greater_fast.runs.progress import Teller
from greater_fast.runs.sitting.journal import Journal
from greater_fast.search.judge import Judge, judged


class Judgement:
    """The values that a judge gave prompts, by their texts; there are none without one.

    It is asked once for the same finalists, by however many sittings: the journal keeps what it
    said. A function is known by its name alone, so that where it was not asked a note says so.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._values: dict[str, float] = {}
        self.notes: tuple[str, ...] = ()

    def ask(self, judge: Judge, prompts: Sequence[str], teller: Teller, ranks: Ranks) -> None:
        """Have the prompts judged, by the first rank.

        Raises:
            ValueError: as of `judged`.
        """
        self.take_known(prompts)
        if self._values:
            self.notes = (
                "the judge was not asked: what one of its name said of these prompts in an earlier "
                "sitting stands",
            )
        else:
            teller.say(f"{len(prompts)} prompts are judged")

            def by_judge() -> dict[str, Any]:
                # Noted at once: other ranks may have waited too long for it, and be gone.
                said = {"prompts": list(prompts), "values": judged(judge, prompts)}
                self._journal.judgement = said
                return said

            with callers_errors():
                self._journal.judgement = ranks.by_first(by_judge)
            self.take_known(prompts)

    def take_known(self, prompts: Sequence[str]) -> None:
        """Take in what was said of these prompts, all together, in an earlier sitting or this."""
        known = self._journal.judgement
        if known and known["prompts"] == list(prompts):
            self._values = dict(zip(prompts, known["values"], strict=True))

    def of(self, prompt: str) -> float | None:
        """What the prompt is worth; None where nobody has said."""
        return self._values.get(prompt)
