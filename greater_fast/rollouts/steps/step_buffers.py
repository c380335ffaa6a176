"""The arrays of one step: the scheduler plans into them, the model reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from greater_fast.model.kv_cache import BLOCK_SIZE

_ALIGNMENT = 4  # numbers of 4 bytes: kernels read 16 bytes at a time


class StepCounts(NamedTuple):
    """How much of the arrays a planned step uses."""

    num_tokens: int  # padding included
    num_sequences: int
    num_rows: int  # of logits
    num_copies: int
    num_padding: int


class StepBuffers:
    """int32 arrays in one allocation, by name: `host` as numpy arrays, `device` as tensors.

    On a CPU both are the same memory; on a GPU the host's is pinned, and `upload` is one transfer.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], device: torch.device) -> None:
        self._sent = torch.zeros(
            sum(map(_room, shapes.values())), dtype=torch.int32, pin_memory=device.type == "cuda"
        )
        self._received = self._sent.to(device)
        self.host: dict[str, NDArray[np.int32]] = {}
        self.device: dict[str, torch.Tensor] = {}
        start = 0
        for name, shape in shapes.items():
            own = slice(start, start + math.prod(shape))
            self.host[name] = self._sent[own].view(shape).numpy()
            self.device[name] = self._received[own].view(shape)
            start += _room(shape)

    def upload(self, *, wait: bool) -> None:
        """Send what the host has written; the device's later work sees it.

        The host may not write again before it is there: `wait` for that here, or for what a step
        says of it.
        """
        if self._received is not self._sent:
            self._received.copy_(self._sent, non_blocking=not wait)

    def place_trial(self) -> int:
        """Put a step on the device that asks for all kinds of work, and return its K/V block.

        One sequence of a block at most, and logits, log-probabilities and samples of all rows.
        """
        num_tokens, block = min(len(self.host["tokens"]), BLOCK_SIZE), 1
        numbers = np.arange(num_tokens)
        for name, values in (
            ("tokens", numbers),
            ("positions", numbers),
            ("slots", block * BLOCK_SIZE + numbers),
            ("logit_rows", numbers),
        ):
            self.host[name][:num_tokens] = values
        self.host["query_starts"][1:] = num_tokens
        self.host["context_lens"][0] = num_tokens
        self.host["block_tables"][0, 0] = block
        self.upload(wait=True)
        return block

    def clear(self) -> None:
        """Nothing but padding again, here and on the device."""
        self._sent.zero_()
        self.upload(wait=True)


def step_shapes(max_tokens: int, table_width: int) -> dict[str, tuple[int, ...]]:
    """Arrays of a step of `max_tokens` (M) slots; it has at most a sequence a token.

    All are the scheduler's but `sample_places`, -1 where a row of logits is not sampled from, and
    `sample_keys`, int64 in two parts.
    """
    shapes: dict[str, tuple[int, ...]] = {
        "query_starts": (max_tokens + 1,),
        "context_lens": (max_tokens,),
        "block_tables": (max_tokens, table_width),
        "copies": (max_tokens, 2),
    }
    by_token = ("tokens", "positions", "slots", "logit_rows", "targets", "target_kinds", "row_keys")
    shapes |= dict.fromkeys((*by_token, "sample_places"), (max_tokens,))
    return shapes | {"sample_keys": (max_tokens, 2)}


def _room(shape: tuple[int, ...]) -> int:
    return -(-math.prod(shape) // _ALIGNMENT) * _ALIGNMENT
