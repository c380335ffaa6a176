"""Who judges the prompts that a search found: a function of the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

# The texts of some prompts -> what each is worth, the more the better
Judge = Callable[[Sequence[str]], Sequence[float]]


def judged(judge: Judge, texts: Sequence[str]) -> list[float]:
    """What a judge gives each of some prompts, all of which it is asked at once.

    Raises:
        ValueError: it gives something else than a finite number for each.
    """
    values = judge(tuple(texts))
    try:
        found = [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise ValueError(f"judge: got {values!r}, expected a number for each prompt") from error
    if len(found) != len(texts) or not all(map(math.isfinite, found)):
        raise ValueError(f"judge: got {found}, expected {len(texts)} finite numbers")
    return found
