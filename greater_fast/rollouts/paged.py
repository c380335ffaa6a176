"""The model over a plan: one forward pass of packed tokens, attention over block tables.

The transformers module stays unchanged. One attention function is registered with it; while a plan
runs, the model's configuration names that function, which writes the new keys and values to the
plan's slots and attends over its block tables.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from greater_fast.model.attention_interface import attention, read_options, rotates_by_length
from greater_fast.model.byte_sizes import is_out_of_memory
from greater_fast.model.checks import UnsupportedModelError, said
from greater_fast.model.kv_cache import BLOCK_SIZE, KVCache, num_layers
from greater_fast.model.lm import LM
from greater_fast.rollouts.attention_backends import States, backend_of, choose_backend
from greater_fast.rollouts.plan import Plan

_NAME = "greater_fast_paged"


def forward(lm: LM, plan: Plan) -> torch.Tensor:
    """Last hidden states [M, D] of the plan's tokens; their keys and values enter the cache."""
    tokens, positions = (ids.to(torch.int64)[None] for ids in (plan.tokens, plan.positions))
    with attention(lm, _NAME, _attend), torch.inference_mode():
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

    Raises:
        ValueError: an argument whose meaning is not known here (attention sinks, a bias).
    """
    plan: Plan = options.pop("plan")
    known = read_options(query, attention_mask, options)
    plan.attention_calls += 1
    states = States(*(tensor[0].transpose(0, 1) for tensor in (query, key, value)))
    return backend_of(plan).attend(plan, module.layer_idx, states, known)[None], None


def usable_backend(lm: LM, kernels: str = "auto") -> str:
    """Who attends: the backend of the model's device, or the one that `kernels` forces.

    Raises:
        UnsupportedModelError: the model cannot run over a plan; says why, and what to use instead.
        ValueError: the kernels that were forced cannot run here, or memory ends while it is tried.
    """
    try:
        backend = choose_backend(lm, kernels)
        reason = why_not(lm, backend)
    except UnsupportedModelError as error:
        reason = str(error)
    if reason is not None:
        raise UnsupportedModelError(
            f"{lm.name} cannot use the rollout engine: {reason}; use engine='generate'"
        )
    return backend


def why_not(lm: LM, backend: str) -> str | None:
    """Why a model cannot run over a plan, or None where it can: tried, not assumed.

    Two sequences are packed into one forward pass and compared with the model's own of each.
    """
    if rotates_by_length(lm):
        return "its rotary embedding depends on the length of the sequence"
    lengths = (3, 2 * BLOCK_SIZE + 5)
    plan = probe(lm, backend, lengths)
    try:
        packed = forward(lm, plan)
    except ValueError as error:
        return str(error)
    except Exception as error:
        if is_out_of_memory(error):
            raise ValueError(
                f"{lm.device} has no memory for a step of {sum(lengths)} tokens"
            ) from error
        return f"its forward pass of packed tokens ends in {said(error)}"
    if plan.attention_calls != num_layers(lm):
        return f"{plan.attention_calls} of its {num_layers(lm)} layers use the attention interface"
    for ids, states in zip(plan.tokens.split(lengths), packed.split(lengths), strict=True):
        with torch.inference_mode():
            own = lm.hidden(input_ids=ids.long()[None])[0]
        # Relative to a row's length; 16 bits alone make a few hundredths through many layers.
        allowed = 1e-2 if lm.dtype.itemsize > 2 else 1e-1
        distances, lengths_of = (x.double().norm(dim=-1) for x in (states - own, own))
        if not (distances <= allowed * lengths_of).all():
            return "a packed forward pass differs from its own"
    return None


def probe(lm: LM, backend: str, lengths: tuple[int, ...]) -> Plan:
    """A plan of whole sequences of some ids, each with blocks of its own, in a poisoned pool."""
    text = " the answer is that one plus two and then some more of it"
    counts = [-(-length // BLOCK_SIZE) for length in lengths]
    tables = np.zeros((len(lengths), max(counts)), np.int32)
    for row, count in enumerate(counts):
        tables[row, :count] = 1 + sum(counts[:row]) + np.arange(count)
    positions = np.concatenate([np.arange(length) for length in lengths])
    rows = np.repeat(np.arange(len(lengths)), lengths)
    blocks = tables[rows, positions // BLOCK_SIZE]
    arrays = {
        "tokens": np.resize(lm.vocabulary.ids(text), sum(lengths)),
        "positions": positions,
        "slots": blocks * BLOCK_SIZE + positions % BLOCK_SIZE,
        "query_starts": np.cumsum([0, *lengths]),
        "context_lens": np.array(lengths),
        "block_tables": tables,
    }
    return Plan.of(
        KVCache(lm, 1 + sum(counts), poisoned=True),
        backend,
        {name: torch.from_numpy(a).to(lm.device, torch.int32) for name, a in arrays.items()},
        sum(lengths),
        len(lengths),
    )
