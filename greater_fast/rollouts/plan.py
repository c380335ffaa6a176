"""One step as the model sees it: tokens, and where their keys and values go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from greater_fast.model.kv_cache import KVCache


@dataclass
class Plan:
    """One step's tokens and where their keys and values go, on the model's device.

    `tokens`, `positions`, `slots` [M], `query_starts` [B + 1], `context_lens` [B], `block_tables`
    [B, T], all int32. `backend` names who attends; `attended` counts how often each layer did.
    """

    cache: KVCache
    backend: str
    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    query_starts: torch.Tensor
    context_lens: torch.Tensor
    block_tables: torch.Tensor
    num_sequences: int
    attended: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(
        cls,
        cache: KVCache,
        backend: str,
        arrays: Mapping[str, torch.Tensor],
        num_tokens: int,
        num_sequences: int,
    ) -> Plan:
        """The plan in a step's arrays, by name, of which the first tokens and sequences count."""
        return cls(
            cache=cache,
            backend=backend,
            tokens=arrays["tokens"][:num_tokens],
            positions=arrays["positions"][:num_tokens],
            slots=arrays["slots"][:num_tokens],
            query_starts=arrays["query_starts"][: num_sequences + 1],
            context_lens=arrays["context_lens"][:num_sequences],
            block_tables=arrays["block_tables"][:num_sequences],
            num_sequences=num_sequences,
        )
