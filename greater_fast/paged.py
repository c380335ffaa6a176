"""The model over a plan: one forward pass of packed tokens, attention over block tables.

The transformers module stays unchanged. One attention function is registered with it; while a plan
runs, the model's configuration names that function, which writes the new keys and values to the
plan's slots and attends over its block tables.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from greater_fast.attention_interface import attention, read_options, rotates_by_length
from greater_fast.extension import paged_attention
from greater_fast.kv_cache import BLOCK_SIZE, KVCache, num_layers
from greater_fast.lm import LM

_NAME = "greater_fast_paged"


@dataclass
class Plan:
    """One step's tokens and where their keys and values go; arrays are the scheduler's buffers.

    `tokens`, `positions`, `slots` [M], `query_starts` [B + 1], `context_lens` [B], `block_tables`
    [B, T], all int32. `attention_calls` counts layers as they attend.
    """

    cache: KVCache
    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    slots: NDArray[np.int32]
    query_starts: NDArray[np.int32]
    context_lens: NDArray[np.int32]
    block_tables: NDArray[np.int32]
    num_sequences: int
    attention_calls: int = field(default=0)


def forward(lm: LM, plan: Plan) -> torch.Tensor:
    """Last hidden states [M, D] of the plan's tokens; their keys and values enter the cache."""
    tokens, positions = (
        torch.from_numpy(array).to(lm.device, torch.int64)[None]
        for array in (plan.tokens, plan.positions)
    )
    with attention(lm, _NAME, _attend), torch.inference_mode():
        decoder = lm.model.get_decoder()
        output = decoder(input_ids=tokens, position_ids=positions, use_cache=False, plan=plan)
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

    Raises:
        ValueError: an argument whose meaning is not known here (attention sinks, a bias).
    """
    plan: Plan = options.pop("plan")
    known = read_options(query, attention_mask, options)
    plan.attention_calls += 1
    queries, new_keys, new_values = (
        states[0].transpose(0, 1).contiguous() for states in (query, key, value)
    )  # [M, heads, D]
    keys, values = plan.cache.layer(module.layer_idx)
    output = torch.empty_like(queries)
    paged_attention(
        queries.numpy(),
        new_keys.numpy(),
        new_values.numpy(),
        keys.numpy(),
        values.numpy(),
        output.numpy(),
        plan.slots,
        plan.query_starts,
        plan.context_lens,
        plan.block_tables,
        plan.num_sequences,
        known.scale,
        known.soft_cap,
        known.window,
    )
    return output[None], None


def why_not(lm: LM) -> str | None:
    """Why a model cannot run over a plan, or None where it can: tried, not assumed.

    Two sequences are packed into one forward pass and compared with the model's own of each.
    """
    if rotates_by_length(lm):
        return "its rotary embedding depends on the length of the sequence"
    if lm.device.type != "cpu" or lm.dtype not in (torch.float32, torch.float64):
        return f"there is no paged attention for {lm.dtype} on {lm.device.type} yet"
    lengths, width = (3, 2 * BLOCK_SIZE + 5), 3
    plan = _probe(lm, lengths, width)
    try:
        packed = forward(lm, plan)
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        return str(error)
    if plan.attention_calls != num_layers(lm):
        return f"{plan.attention_calls} of its {num_layers(lm)} layers use the attention interface"
    start = 0
    for length in lengths:
        ids = torch.from_numpy(plan.tokens[start : start + length]).to(torch.int64)[None]
        with torch.inference_mode():
            own = lm.hidden(input_ids=ids)[0]
        if not torch.allclose(packed[start : start + length], own, rtol=1e-2, atol=1e-2):
            return "a packed forward pass differs from its own"
        start += length
    return None


def _probe(lm: LM, lengths: tuple[int, ...], width: int) -> Plan:
    """A plan of whole sequences of arbitrary ids, each with `width` blocks of its own."""
    total = sum(lengths)
    ids = lm.vocabulary.ids(" the answer is that one plus two and then some more of it")
    blocks = np.arange(1, 1 + width * len(lengths), dtype=np.int32).reshape(len(lengths), width)
    positions = np.concatenate([np.arange(n) for n in lengths]).astype(np.int32)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    return Plan(
        cache=KVCache(lm, 1 + width * len(lengths), poisoned=True),
        tokens=np.resize(np.array(ids, dtype=np.int32), total),
        positions=positions,
        slots=(blocks[rows, positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE).astype(
            np.int32
        ),
        query_starts=np.cumsum([0, *lengths]).astype(np.int32),
        context_lens=np.array(lengths, dtype=np.int32),
        block_tables=blocks,
        num_sequences=len(lengths),
    )
