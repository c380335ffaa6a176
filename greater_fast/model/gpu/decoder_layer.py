"""A decoder layer's residual adds on a GPU, each in one launch with the norms beside it.

    attended = attention(before_attention(x))
    h        = x + after_attention(attended)            one launch with before_mlp
    y        = h + after_mlp(mlp(before_mlp(h)))        one launch, or part of the last product

Llama's layers have the norms before, OLMo 2's those after, Gemma's and GLM 4's all four.
"""

from __future__ import annotations

import copy
import functools
from typing import Any, NamedTuple

import torch
from torch import nn

from greater_fast.kernels.layers.rms_norm import Norm, add_norms
from greater_fast.model.forwards import Forward, is_equal, is_untouched, needs_gradient
from greater_fast.model.gpu.mlp import GatedMLP
from greater_fast.model.gpu.norm import norm_of
from greater_fast.model.gpu.refusal import RefusedError, found_or_refused
from greater_fast.model.lm import LM

_WIDTH = 48  # of the small copy that is tried


class _Places(NamedTuple):
    """Names of a layer's norms; None where it has none there."""

    before_attention: str | None
    after_attention: str | None
    before_mlp: str | None
    after_mlp: str | None


_FIRST, _SECOND = "input_layernorm", "post_attention_layernorm"
_PLACES = (
    _Places(_FIRST, None, _SECOND, None),  # Llama and most others
    _Places(_FIRST, _SECOND, "pre_feedforward_layernorm", "post_feedforward_layernorm"),  # Gemma
    _Places(_FIRST, "post_self_attn_layernorm", _SECOND, "post_mlp_layernorm"),  # GLM 4
    _Places(None, _SECOND, None, "post_feedforward_layernorm"),  # OLMo 2
)


class _Layer(NamedTuple):
    """How a layer goes: its places, and the norms that stand beside an add."""

    places: _Places
    after_attention: Norm | None
    before_mlp: Norm | None
    after_mlp: Norm | None


def layer_forward(_: LM, module: Any) -> Forward | None:
    """Ours in place of a decoder layer's forward, or None where the module is none.

    Raises:
        RefusedError: it goes another way, or has norms that cannot be taken over; it is tried.
    """
    if not all(isinstance(getattr(module, name, None), nn.Module) for name in ("self_attn", "mlp")):
        return None
    if not is_untouched(module):
        raise RefusedError("hooked")
    names = {name for name, _ in module.named_children() if name.endswith("norm")}
    places = [p for p in _PLACES if set(filter(None, p)) == names]
    if not places:
        raise RefusedError("norms at other places")
    norms = {name: norm_of(getattr(module, name)) for name in names}
    layer = _Layer(places[0], *(norms.get(str(name)) for name in places[0][1:]))
    dtypes = {norm.weights.dtype for norm in norms.values()}
    is_so = len(dtypes) == 1
    found_or_refused(lambda: (is_so and _goes_so(module, layer)) or None, "of another form")
    return functools.partial(_forward, layer, module, module.forward)


def _forward(
    layer: _Layer,
    module: Any,
    own: Forward,
    hidden_states: torch.Tensor,
    *arguments: Any,
    **options: Any,
) -> Any:
    """The layer's forward; its own where it is called in another way than engines call it."""
    norms = [norm for norm in layer[1:] if isinstance(norm, Norm)]
    is_known = all(norm.weights.dtype == hidden_states.dtype for norm in norms)
    if arguments or module.training or not is_known:
        return own(hidden_states, *arguments, **options)
    shape, width = hidden_states.shape, hidden_states.shape[-1]
    before = layer.places.before_attention
    states = getattr(module, before)(hidden_states) if before else hidden_states
    attended, *_ = module.self_attn(hidden_states=states, **options)
    rows = attended.reshape(-1, width), hidden_states.reshape(-1, width)
    sums, normed = add_norms(*rows, layer.after_attention, layer.before_mlp)
    states = sums if normed is None else normed
    mlp = _plain_mlp(module.mlp)
    if mlp is not None and layer.after_mlp is None and not needs_gradient(sums):
        return mlp.add_to(sums, states).view(shape)
    given = module.mlp(states.view(shape)).reshape(-1, width)
    if layer.after_mlp is None:
        return (sums + given).view(shape)
    return add_norms(given, sums, layer.after_mlp, None)[0].view(shape)


def _plain_mlp(module: Any) -> GatedMLP | None:
    """What runs in a module's place, where nothing is hooked to it."""
    forward = vars(module).get("forward")
    is_hooked = module._forward_hooks or module._forward_pre_hooks
    return forward if isinstance(forward, GatedMLP) and not is_hooked else None


def _goes_so(module: Any, layer: _Layer) -> bool:
    """Whether ours gives what a copy does with small norms, and hands the same on to its parts."""
    device = next(module.parameters()).device
    source = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=source, device="cpu").to(device)

    called: list[tuple[Any, ...]] = []
    parts = {"self_attn": _Part(numbers(_WIDTH), called, is_attention=True)}
    parts["mlp"] = _Part(numbers(_WIDTH), called, is_attention=False)
    norms = {name: Norm(numbers(_WIDTH), 0.1, 0.5) for name in layer.places if name}
    small = {name: _SmallNorm(norm) for name, norm in norms.items()} | parts
    if any(id(p) not in _parameters_of(module, small) for p in module.parameters()):
        return False  # it has more parts than these
    memo: dict[int, Any] = {id(getattr(module, name)): part for name, part in small.items()}
    twin = copy.deepcopy(module, memo)
    ours = layer._replace(
        after_attention=norms.get(str(layer.places.after_attention)),
        before_mlp=norms.get(str(layer.places.before_mlp)),
        after_mlp=norms.get(str(layer.places.after_mlp)),
    )
    inputs = 3 * numbers(1, 5, _WIDTH)
    options = {name: object() for name in ("attention_mask", "position_ids", "past_key_values")}
    options |= {"position_embeddings": object(), "use_cache": False, "plan": object()}
    expected = twin(inputs, **options)
    found = _forward(ours, twin, twin.forward, inputs, **options)
    half = len(called) // 2
    return called[:half] == called[half:] and half == 2 and is_equal(found, expected)


def _parameters_of(module: Any, names: Any) -> set[int]:
    return {id(p) for name in names for p in getattr(module, name).parameters()}


class _SmallNorm(nn.Module):
    """A norm of the trial, by the kernel that is tried elsewhere."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        rows = states.reshape(-1, states.shape[-1])
        normed = add_norms(rows, torch.zeros_like(rows), None, self.norm)[1]
        assert normed is not None
        return normed.view(states.shape)


class _Part(nn.Module):
    """An attention or an MLP of the trial, which keeps in mind what it was called with."""

    def __init__(self, factors: torch.Tensor, called: list[Any], is_attention: bool) -> None:
        super().__init__()
        self.factors, self.called, self.is_attention = factors, called, is_attention

    def forward(self, *arguments: Any, **options: Any) -> Any:
        states = options.pop("hidden_states") if "hidden_states" in options else arguments[0]
        self.called.append((self.is_attention, len(arguments), options))
        found = self.factors * states.sin()
        return (found, None) if self.is_attention else found
