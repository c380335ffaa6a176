"""The model over a plan: one forward pass of packed tokens, attention over block tables.

The transformers module stays unchanged. One attention function is registered with it; while a plan
runs, the model's configuration names that function, which writes the new keys and values to the
plan's slots and attends over its block tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from greater_fast.kernels.reference import Turns
from greater_fast.model.attention.far import far_obstacle
from greater_fast.model.attention.interface import (
    TurningAttention,
    attention,
    obstacle_of,
    passed,
    read_options,
    rotates_by_length,
)
from greater_fast.model.checks import UnsupportedModelError
from greater_fast.model.forwards import alike
from greater_fast.model.kv_cache import BLOCK_SIZE, KVCache, num_layers
from greater_fast.model.lm import LM
from greater_fast.rollouts.attention_backends import States, backend_of, choose_backend
from greater_fast.rollouts.plan import Plan

_NAME = "greater_fast_paged"
_NO_LIMIT = 1 << 17  # tokens of a sequence, where a model names none
_COMPARED = 64  # rows of a sequence, from its end: of very many, 16 bits have some that stray


def longest_of(lm: LM, longest: int | None = None) -> int:
    """Tokens of the longest sequence that can come; `longest` where more is known of them."""
    return min(filter(None, (longest, lm.max_context)), default=_NO_LIMIT)


def split_size(backend: str) -> int | None:
    """Keys of a sequence that one program reads at most; further ones are another's to add."""
    if backend != "triton":
        return None
    from greater_fast.kernels.attention import paged as paged_attention

    return paged_attention.SPLIT


def forward(lm: LM, plan: Plan) -> torch.Tensor:
    """Last hidden states [M, D] of the plan's tokens; their keys and values enter the cache."""
    tokens, positions = (ids.to(torch.int64)[None] for ids in (plan.tokens, plan.positions))
    attend = TurningAttention(_attend) if backend_of(plan).turns else _attend
    with attention(lm, _NAME, attend), torch.inference_mode():
        output = lm.decoder(input_ids=tokens, position_ids=positions, use_cache=False, plan=plan)
    states: torch.Tensor = output.last_hidden_state[0]
    return states


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer, in the form transformers calls it: query [1, H, M, D], the same out.

    Queries and keys that come with `turns` are as the layer's products gave them.

    Raises:
        ValueError: an argument whose meaning is not known here (attention sinks, a bias).
    """
    plan: Plan = passed(options, "plan")
    turns: Turns | None = options.pop("turns", None)
    known = read_options(query, attention_mask, options)
    plan.attended[module.layer_idx] += 1
    queries, keys, values = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    states = States(queries, keys, values, turns)
    pool, _ = plan.cache.layer(module.layer_idx)
    if {tuple(x.shape[1:]) for x in (keys, values)} != {(pool.shape[1], pool.shape[3])}:
        raise ValueError(
            "the keys or values of its layers have other shapes than its configuration says"
        )
    return backend_of(plan).attend(plan, module.layer_idx, states, known)[None], None


def usable_backend(lm: LM, kernels: str = "auto", longest: int | None = None) -> str:
    """Who attends: the backend of the model's device, or the one that `kernels` forces.

    Raises:
        UnsupportedModelError: the model cannot run over a plan with sequences of up to `longest`
            tokens (None: not known); says why, and what to use instead.
        ValueError: the kernels that were forced cannot run here, or memory ends while it is tried.
    """
    try:
        backend = choose_backend(lm, kernels)
        reason = why_not(lm, backend, longest)
    except UnsupportedModelError as error:
        reason = str(error)
    if reason is not None:
        raise UnsupportedModelError(
            f"{lm.name} cannot use the rollout engine: {reason}; use engine='generate'"
        )
    return backend


def why_not(lm: LM, backend: str, longest: int | None = None) -> str | None:
    """Why a model cannot run over a plan, or None where it can: tried, not assumed.

    Sequences are packed into two steps, as prompts and what follows them, and compared with the
    model's own pass of each: two short ones, and one beyond what a program reads, if one may be so
    long, with a block table as wide as the engine's. What they do not show is tried up to
    `longest`.
    """
    if rotates_by_length(lm, longest):
        return "its rotary embedding depends on the length of the sequence"
    stops: list[tuple[int, ...]] = [(3, BLOCK_SIZE + 5), (4, 2 * BLOCK_SIZE + 5)]
    limit, split = longest_of(lm, longest), split_size(backend)
    if split and split + 5 <= limit:
        stops = [(*stop, split + more) for stop, more in zip(stops, (2, 5), strict=True)]
    try:
        steps = probe_steps(lm, backend, stops, -(-limit // BLOCK_SIZE))
        packed = [forward(lm, plan) for plan in steps]
    except Exception as error:  # whatever the model's own code raises
        return obstacle_of(error)
    attended = steps[0].attended
    if attended.total() > len(attended):
        return "its layers attend more than once each, where a pool holds the keys of one time"
    if len(attended) != num_layers(lm):
        return f"{len(attended)} of its {num_layers(lm)} layers use the attention interface"
    counts = [plan.query_starts.diff().tolist() for plan in steps]
    for row in range(len(stops[0])):
        ids, states = (
            torch.cat([part.split(count)[row] for part, count in zip(parts, counts, strict=True)])
            for parts in ([plan.tokens for plan in steps], packed)
        )
        with torch.inference_mode():
            own = lm.hidden(input_ids=ids.long()[None])[0]
        if not alike(states[-_COMPARED:], own[-_COMPARED:]):
            return "a packed forward pass differs from its own"
    try:
        return far_obstacle(lm, longest)
    except Exception as error:  # whatever the model's own code raises
        return obstacle_of(error)


def probe_steps(
    lm: LM, backend: str, stops: Sequence[tuple[int, ...]], table_width: int = 1
) -> list[Plan]:
    """Plans of steps that bring every sequence up to its `stops`, all in one poisoned pool.

    Block tables are at least `table_width` wide: on it depends how a kernel's work is cut.
    """
    ids = np.array(lm.vocabulary.ids(" the answer is that one plus two and then some more of it"))
    lengths = stops[-1]
    counts = [-(-length // BLOCK_SIZE) for length in lengths]
    tables = np.zeros((len(lengths), max(table_width, *counts)), np.int32)
    for row, count in enumerate(counts):
        tables[row, :count] = 1 + sum(counts[:row]) + np.arange(count)
    cache = KVCache(lm, 1 + sum(counts), poisoned=True)
    plans = []
    for before, after in zip(((0,) * len(lengths), *stops), stops, strict=False):
        new = np.subtract(after, before)
        positions = np.concatenate([np.arange(*span) for span in zip(before, after, strict=True)])
        rows = np.repeat(np.arange(len(lengths)), new)
        blocks = tables[rows, positions // BLOCK_SIZE]
        arrays = {
            "tokens": ids[(positions + 3 * rows) % len(ids)],
            "positions": positions,
            "slots": blocks * BLOCK_SIZE + positions % BLOCK_SIZE,
            "query_starts": np.cumsum([0, *new]),
            "context_lens": np.array(after),
            "block_tables": tables,
        }
        on_device = {
            name: torch.from_numpy(a).to(lm.device, torch.int32) for name, a in arrays.items()
        }
        plans.append(Plan.of(cache, backend, on_device, len(positions), len(lengths)))
    return plans
