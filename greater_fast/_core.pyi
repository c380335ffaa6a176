"""Scheduler, block pool and CPU attention of the rollout engine (csrc/)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Outcome = tuple[
    int,
    tuple[int, ...],
    tuple[int, ...],
    tuple[float, ...],
    tuple[float, ...],
    tuple[int, ...],
    int | None,
    int | None,
]

class Stop:
    def __init__(
        self,
        last_ids: Sequence[int],
        cut: Callable[[list[int], int], tuple[int, Sequence[int], int] | None],
    ) -> None: ...

class Scheduler:
    def __init__(
        self,
        buffers: dict[str, Ints],
        *,
        num_blocks: int,
        block_size: int,
        table_width: int,
        max_tokens: int,
        min_tokens: int = 1,
        fixed_tokens: bool = False,
        max_sequences: int,
        vocab_size: int = 2147483647,
        draft_tokens: int = 0,
        share_prefixes: bool = True,
    ) -> None: ...
    def submit(
        self,
        *,
        key: int,
        group: int = 0,
        prompt_ids: Sequence[int],
        prompt_span: tuple[int, int] = (0, 0),
        draft_ids: Sequence[int] = (),
        target_ids: Sequence[int] = (),
        num_scored: int = 0,
        max_new_tokens: int,
        max_answer_tokens: int = 0,
        end_ids: Sequence[int] = (),
        stop: Stop | None = None,
        answer_stop: Stop | None = None,
    ) -> None: ...
    def cancel(self, key: int) -> int: ...
    def cancel_group(self, group: int) -> int: ...
    def abort(self) -> None: ...
    def plan(self) -> tuple[int, int, int, int, int]: ...
    def commit(
        self, argmax: Ints, logprobs: NDArray[np.float32], sampled: Ints | None = None
    ) -> None: ...
    def take_finished(self) -> list[Outcome]: ...
    def cached_prefix(self, ids: Sequence[int]) -> tuple[int, list[int]]: ...
    def statistics(self) -> dict[str, int]: ...
    def check_integrity(self) -> None: ...
    @property
    def idle(self) -> bool: ...
    @property
    def num_running(self) -> int: ...
    @property
    def num_waiting(self) -> int: ...
    @property
    def num_free_blocks(self) -> int: ...

def paged_attention(
    queries: NDArray[Any],
    new_keys: NDArray[Any],
    new_values: NDArray[Any],
    keys: NDArray[Any],
    values: NDArray[Any],
    output: NDArray[Any],
    slots: Ints,
    query_starts: Ints,
    context_lens: Ints,
    block_tables: Ints,
    num_sequences: int,
    scale: float,
    soft_cap: float,
    window: int,
) -> None: ...
def linear(
    inputs: NDArray[Any],
    weights: NDArray[Any],
    bias: NDArray[Any] | None,
    outputs: NDArray[Any],
) -> None: ...
def linears_backward(
    layers: Sequence[tuple[NDArray[Any], NDArray[Any]]], input_gradients: NDArray[Any]
) -> None: ...
def gated_mlp(
    inputs: NDArray[Any],
    parameters: Sequence[tuple[NDArray[Any], NDArray[Any] | None]],
    states: Sequence[NDArray[Any]],
    outputs: NDArray[Any],
    activation: str,
) -> None: ...
def gate_backward(
    gate: NDArray[Any],
    up: NDArray[Any],
    hidden_gradients: NDArray[Any],
    gate_gradients: NDArray[Any],
    activation: str,
) -> None: ...
def rms_norm(
    inputs: NDArray[Any],
    weights: NDArray[Any],
    outputs: NDArray[Any],
    epsilon: float,
    offset: float,
) -> None: ...
def rms_norm_backward(
    inputs: NDArray[Any],
    weights: NDArray[Any],
    gradients: tuple[NDArray[Any], NDArray[Any]],
    epsilon: float,
    offset: float,
) -> None: ...
def turned_linears(
    inputs: NDArray[Any],
    layers: Sequence[tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any]]],
    num_turned: int,
    turns: tuple[NDArray[Any], NDArray[Any]],
) -> None: ...
def turn_back(
    states: Sequence[tuple[NDArray[Any], NDArray[Any]]],
    turns: tuple[NDArray[Any], NDArray[Any]],
) -> None: ...
def read_logits(
    logits: NDArray[Any],
    targets: Ints,
    temperatures: NDArray[Any],
    argmax: Ints,
    logprobs: NDArray[np.float32],
) -> None: ...
def packed_attention(
    states: tuple[NDArray[Any], ...],
    starts: list[int],
    prefixes: list[Any],
    outputs: NDArray[Any],
    options: tuple[float, float, int],
) -> None: ...
def packed_attention_backward(
    states: tuple[NDArray[Any], ...],
    starts: list[int],
    prefixes: list[Any],
    output_gradients: NDArray[Any],
    gradients: tuple[NDArray[Any], ...],
    options: tuple[float, float, int],
) -> None: ...
def limit_vectors(num_bytes: int) -> None: ...
