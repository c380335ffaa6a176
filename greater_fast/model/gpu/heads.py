"""The way into an attention module on a GPU: one product, and one launch for what comes after it.

Queries, keys and values are one product where their weights allow it. They go to an attention that
turns them itself as they are, and to any other turned, by kernels/layers/rotary.py.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import linear

from greater_fast.kernels.reference import HeadNorm, Turns
from greater_fast.model.attention.call import Given, kept, read_call, recorded
from greater_fast.model.attention.interface import TurningAttention
from greater_fast.model.byte_sizes import is_out_of_memory
from greater_fast.model.forwards import (
    Forward,
    inputs_like,
    is_equal,
    is_untouched,
    needs_gradient,
)
from greater_fast.model.gpu.merged import merged_biases, merged_weights
from greater_fast.model.gpu.refusal import RefusedError, found_or_refused
from greater_fast.model.kv_cache import BLOCK_SIZE
from greater_fast.model.lm import LM

_LAYERS = ("q_proj", "k_proj", "v_proj")
_WHOLE = "qkv_proj"
_EPSILONS = ("variance_epsilon", "eps")
_OFFSETS = (0.0, 1.0)  # of a norm's weights: Qwen's, Gemma's

Form = tuple[int, torch.dtype]  # of cosines: width and type


class _Product(NamedTuple):
    """What makes the heads of queries, keys and values, [H + 2 KV, D] of a row."""

    weights: torch.Tensor
    bias: torch.Tensor | None
    num_kv_heads: int
    head_size: int


class _Heads(NamedTuple):
    """A module's product, how it turns heads, and how it calls its attention."""

    product: _Product
    interleaved: bool
    norm: HeadNorm | None
    forms: frozenset[Form]
    options: dict[str, Any]
    own: Forward


class _Call(NamedTuple):
    """A module's call of its attention, and what the module made of the answer."""

    given: Given
    output: torch.Tensor


def heads_forward(lm: LM, module: Any) -> Forward | None:
    """Ours in place of an attention module's forward, or None where it is no such module.

    It is tried: an attention function must get the same states and options from both.

    Raises:
        RefusedError: it is one, and cannot be taken over.
    """
    names = [_WHOLE] if hasattr(module, _WHOLE) else list(_LAYERS)
    if not all(isinstance(getattr(module, name, None), nn.Module) for name in (*names, "o_proj")):
        return None
    if not is_untouched(module):
        raise RefusedError("hooked")
    product = found_or_refused(
        lambda: _product_of(module, names), "weights that cannot be one matrix"
    )
    return found_or_refused(
        lambda: _found(lm, module, product), "heads that are turned in another way"
    )


def _product_of(module: Any, names: list[str]) -> _Product | None:
    layers = [getattr(module, name) for name in names]
    weights, biases = merged_weights(layers), [layer.bias for layer in layers]
    bias = merged_biases(layers) if biases[0] is not None else None
    if weights is None or (bias is None) != all(found is None for found in biases):
        return None
    width = len(weights) - module.o_proj.in_features
    return _Product(weights, bias, width // (2 * module.head_dim), module.head_dim)


def _found(lm: LM, module: Any, product: _Product) -> Forward | None:
    """Ours, in the first form of turning in which it equals the module's own forward."""
    forms = [(width, kind) for width in _widths(lm) for kind in _kinds(product.weights.dtype)]
    own = {form: call for form in forms if (call := _own_call(lm, module, product, form))}
    for interleaved, norm in itertools.product((False, True), _norms(module)):
        heads = _Heads(product, interleaved, norm, frozenset(own), {}, module.forward)
        alike = [form for form, call in own.items() if _is_alike(lm, module, heads, form, call)]
        if alike and _stores_alike(heads, alike[0]):
            options = kept(own[alike[0]].given.options)
            found = heads._replace(forms=frozenset(alike), options=options)
            return functools.partial(_forward, module, found)
    return None


def _widths(lm: LM) -> list[int]:
    """Numbers of a head that the model's rotary embeddings turn."""
    buffers = lm.model.named_buffers()
    return sorted({2 * len(buffer) for name, buffer in buffers if name.endswith("inv_freq")})


def _kinds(dtype: torch.dtype) -> set[torch.dtype]:
    return {dtype, torch.float32}


def _norms(module: Any) -> Iterator[HeadNorm | None]:
    """Norms of heads that the module may have."""
    norms = [getattr(module, name, None) for name in ("q_norm", "k_norm")]
    if norms[0] is None or norms[1] is None:
        yield None
        return
    weights = norms[0].weight.detach(), norms[1].weight.detach()
    for epsilon in {getattr(norms[0], name) for name in _EPSILONS if hasattr(norms[0], name)}:
        for offset in _OFFSETS:
            yield HeadNorm(weights, float(epsilon), offset)


def _own_call(lm: LM, module: Any, product: _Product, form: Form) -> _Call | None:
    """What the module itself asks of its attention, or None where it takes no such cosines."""
    try:
        return _recorded(lm, module.forward, _arguments(product, form))
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        return None


def _is_alike(lm: LM, module: Any, heads: _Heads, form: Form, own: _Call) -> bool:
    """Whether ours asks for the same, and makes the same of the answer."""
    options = kept(own.given.options)
    forward = functools.partial(_forward, module, heads._replace(options=options))
    ours = _recorded(lm, forward, _arguments(heads.product, form))
    same = map(is_equal, (*ours.given.states, ours.output), (*own.given.states, own.output))
    return ours.given.options == own.given.options and all(same)


def _stores_alike(heads: _Heads, form: Form) -> bool:
    """Whether a paged attention has what another one is given: its kernel is launched otherwise."""
    from greater_fast.kernels.layers.rotary import turn_and_store, turned

    weights, bias, num_kv_heads, head_size = heads.product
    arguments = _arguments(heads.product, form)
    states = linear(arguments["hidden_states"][0], weights, bias).unflatten(1, (-1, head_size))
    cos, sin = (part[0].contiguous() for part in arguments["position_embeddings"])
    turns = Turns(cos, sin, heads.interleaved, heads.norm)
    slots = torch.arange(len(states), dtype=torch.int32, device=states.device)
    pool = states.new_zeros(2, 2, num_kv_heads, BLOCK_SIZE, head_size)  # of two blocks
    given = _parts(states, num_kv_heads)
    queries = turn_and_store(given, turns, (pool[0], pool[1]), slots + BLOCK_SIZE)
    found = queries, *pool[:, 1, :, : len(states)].transpose(1, 2)
    return all(map(is_equal, found, turned(states, num_kv_heads, turns)))


def _parts(
    states: torch.Tensor, num_kv_heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries [M, H, D], keys and values [M, KV, D] of the heads [M, H + 2 KV, D] of all."""
    sizes = [states.shape[1] - 2 * num_kv_heads, num_kv_heads, num_kv_heads]
    queries, keys, values = states.split(sizes, dim=1)
    return queries, keys, values


def _arguments(product: _Product, form: Form) -> dict[str, Any]:
    """What a trial calls a module with: turns of that form that are no rotations."""
    weights, (width, kind) = product.weights, form
    # Small, middling and large: heads of the largest may be more than float16 holds.
    sizes = slice(0, 11, 5) if weights.dtype == torch.float16 else slice(0, 15, 7)
    inputs = inputs_like(weights.shape[1], weights)[:, sizes]
    source = torch.Generator().manual_seed(1)
    turns = torch.randn(2, inputs.shape[1], width, generator=source, device="cpu")
    return {
        "hidden_states": inputs,
        "position_embeddings": tuple(turns[:, None].to(weights.device, kind)),
        "attention_mask": None,
        "use_cache": False,
    }


def _recorded(lm: LM, forward: Forward, arguments: dict[str, Any]) -> _Call:
    return _Call(*recorded(lm, forward, arguments))


def _forward(module: Any, heads: _Heads, *arguments: Any, **options: Any) -> Any:
    """The module's forward; its own where it is called in another way than engines call it."""
    call = read_call(module, arguments, options)
    if call is None or (call.turns[0].shape[-1], call.turns[0].dtype) not in heads.forms:
        return heads.own(*arguments, **options)
    weights, bias, _, head_size = heads.product
    num_rows = call.inputs.shape[1]
    states = linear(call.inputs[0], weights, bias).view(num_rows, -1, head_size)
    cos, sin = (part[0].contiguous() for part in call.turns)
    given = _given(call.attend, states, heads, Turns(cos, sin, heads.interleaved, heads.norm))
    found, others = call.attend(
        module, *given.states, call.mask, **given.options, **heads.options, **call.options
    )
    return module.o_proj(found.reshape(1, num_rows, -1)), others


def _given(attend: Any, states: torch.Tensor, heads: _Heads, turns: Turns) -> Given:
    """What an attention function is given of heads [M, H + 2 KV, D]: as they are, or turned."""
    num_kv_heads = heads.product.num_kv_heads
    if isinstance(attend, TurningAttention) and not needs_gradient(states):
        parts, options = _parts(states, num_kv_heads), {"turns": turns}
    else:
        from greater_fast.kernels.layers.rotary import turned

        parts, options = turned(states, num_kv_heads, turns), {}
    return Given(tuple(part.transpose(0, 1)[None] for part in parts), options)
