"""The table of docs/models.md, and what writes it: `python -m tests.zoo.table` (minutes)."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path

from tests.tiny import tiny_tokenizer
from tests.zoo.checks import Outcome, outcome_of
from tests.zoo.models import FAMILIES, VARIANTS, zoo_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
NAMES = sorted([*FAMILIES, *VARIANTS])
_MARKS = "<!-- zoo -->", "<!-- /zoo -->"


@functools.cache
def outcome(name: str) -> Outcome | None:
    """What a model of the zoo comes to, None where transformers cannot build it."""
    tokenizer = tiny_tokenizer("llama3")
    try:
        model = zoo_model(name, len(tokenizer))
    except Exception:  # whatever its code raises
        return None
    return outcome_of(model, tokenizer)


def row(name: str, found: Outcome) -> str:
    """A line of the table, without figures that come of random numbers."""
    reason = re.sub(r" \((they differ by|[0-9]+ heads of)[^()]*\)", "", found.reason)
    return f"| {name} | {found.way} | {reason} |"


def table(outcomes: Mapping[str, Outcome | None]) -> str:
    """The table in Markdown, how many run how, and the names of those that were not built."""
    built = {name: found for name, found in outcomes.items() if found}
    ways = [found.way for found in built.values()]
    counts = [f"{ways.count(way)} {way}" for way in ("paged", "generate", "refused")]
    missing = [name for name, found in outcomes.items() if not found]
    return "\n".join(
        [
            f"{len(built)} models: {', '.join(counts)}.",
            "",
            "| model | engine | why |",
            "|---|---|---|",
            *(row(name, found) for name, found in built.items()),
            "",
            f"Not built: {', '.join(missing)}.",
        ]
    )


def written() -> str:
    """The table that the page has."""
    return PAGE.read_text().split(_MARKS[0])[1].split(_MARKS[1])[0].strip()


def main() -> None:
    """Write the page's table anew."""
    before, _, rest = PAGE.read_text().partition(_MARKS[0])
    new = table({name: outcome(name) for name in NAMES})
    PAGE.write_text(f"{before}{_MARKS[0]}\n{new}\n{_MARKS[1]}{rest.partition(_MARKS[1])[2]}")


if __name__ == "__main__":
    main()
