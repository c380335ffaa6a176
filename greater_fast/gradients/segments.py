"""One example's share of a packed row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from greater_fast.model.kv_cache import PrefixKV


@dataclass(frozen=True, slots=True)
class Segment:
    """One example's tokens in the packed row.

    `read_rows`, rising, are those of its tokens whose last states are wanted, counted from its
    first.
    """

    num_tokens: int
    prefix: PrefixKV | None
    read_rows: Sequence[int] = ()

    @property
    def num_before(self) -> int:
        """Tokens of the prefix."""
        return self.prefix.num_tokens if self.prefix else 0
