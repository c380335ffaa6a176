"""What a judge has said is kept, whatever becomes of those who wait to hear it."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from greater_fast.ranks import RankLostError, Ranks
from greater_fast.runs.progress import Teller
from greater_fast.runs.sitting.judgement import Judgement

PROMPTS = ("Think.", "Count.")


class LostRanks(Ranks):
    """Rank 0, whose others have gone while it was at work."""

    def by_first(self, make: Callable[[], Any]) -> Any:
        make()
        raise RankLostError("rank 0 of 2 lost another one")


def test_what_was_said_is_kept_though_nobody_hears_of_it() -> None:
    journal: Any = SimpleNamespace(judgement=None)
    with pytest.raises(RankLostError):
        Judgement(journal).ask(lambda texts: [0.5, 1.0], PROMPTS, Teller(), LostRanks(0, 2))
    again, asked = Judgement(journal), list[Any]()
    again.ask(asked.append, PROMPTS, Teller(), Ranks())
    assert (again.of("Count."), asked) == (1.0, [])
