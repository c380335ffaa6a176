"""Rows of several lengths in one pass, padded on the right, where that changes none of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from greater_fast.model.attention.interface import rotates_by_length
from greater_fast.model.forwards import alike

if TYPE_CHECKING:
    from greater_fast.model.lm import LM

# (ids [B, T], numbers of their sequences) -> states [B, T, D]
Pass = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]


def pads(lm: LM) -> bool:
    """Whether rows may be padded on the right: tried, not assumed, with two rows and each alone."""
    if rotates_by_length(lm):
        return False
    ids = lm.vocabulary.ids(" the answer is that one plus two and then some more of it")
    rows = [ids[:4], (ids * 4)[:37]]
    with torch.no_grad():
        alone = [lm.hidden(input_ids=torch.tensor([row], device=lm.device))[0] for row in rows]
        try:
            together = lm.hidden(input_ids=lm.pad_right(rows))
        except Exception:  # whatever the model's own code raises: it takes no such rows
            return False
    return all(alike(found[: len(own)], own) for found, own in zip(together, alone, strict=True))


def row_groups(lengths: Sequence[int], *, padded: bool) -> list[list[int]]:
    """Numbers of the rows that share a pass: all of them, or those of one length."""
    if padded:
        return [list(range(len(lengths)))] if lengths else []
    groups: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        groups.setdefault(length, []).append(number)
    return list(groups.values())


def num_tokens(lm: LM, lengths: Sequence[int]) -> int:
    """Tokens that go through the model for rows of these lengths, padding included."""
    groups = row_groups(lengths, padded=lm.pads)
    return sum(len(group) * max(lengths[number] for number in group) for group in groups)


def states_at(
    lm: LM, sequences: Sequence[Sequence[int]], rows: Sequence[Sequence[int]], states_of: Pass
) -> torch.Tensor:
    """States [R, D] at `rows[b]` of `sequences[b]`, sequence after sequence."""
    parts: dict[int, torch.Tensor] = {}
    lengths = [len(ids) for ids in sequences]
    for group in row_groups(lengths, padded=len(set(lengths)) > 1 and lm.pads):
        states = states_of(lm.pad_right([sequences[number] for number in group]), group)
        picked = states[gather_index([rows[number] for number in group], lm.device)]
        parts |= zip(group, picked.split([len(rows[number]) for number in group]), strict=True)
    return torch.cat([parts[number] for number in range(len(sequences))])


def gather_index(
    rows: Sequence[Sequence[int]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Index ([R], [R]) that picks `rows[b]` of sequence b out of a [B, T, ...] tensor."""
    batch = [b for b, positions in enumerate(rows) for _ in positions]
    flat = [p for positions in rows for p in positions]
    return torch.tensor(batch, device=device), torch.tensor(flat, device=device)
