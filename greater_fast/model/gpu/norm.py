"""RMS norms on a GPU, by kernels/layers/rms_norm.py, with the gradient by their inputs."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import nn

from greater_fast.kernels.checks import FLOATS
from greater_fast.kernels.layers.rms_norm import MAX_WIDTH, Norm, rms_norm
from greater_fast.model.forwards import Forward, inputs_like, is_equal, is_untouched
from greater_fast.model.gpu.refusal import RefusedError, found_or_refused
from greater_fast.model.lm import LM

_EPSILONS = ("variance_epsilon", "eps")
# Offset of the weights, and whether rows are rounded before: Llama's, OLMo 2's, Gemma's.
_FORMS = ((0.0, True), (0.0, False), (1.0, False))


def norm_forward(_: LM, module: nn.Module) -> Forward | None:
    """Ours in place of a norm's forward, or None where the module is no norm with weights alone.

    Raises:
        RefusedError: it is no RMS norm, or in another precision; it is tried.
    """
    norm = None if _is_other(module) else norm_of(module)
    return norm and functools.partial(_forward, norm, module)


def norm_of(module: Any) -> Norm:
    """What a norm does, as the kernel takes it.

    Its own numbers are compared, on rows so small that the epsilon counts and on large ones, in
    float32 and in the type of its weights.

    Raises:
        RefusedError: no form that is known gives its numbers.
    """
    if not is_untouched(module):
        raise RefusedError("hooked")
    weight = module.weight
    is_dense = type(weight) in (torch.Tensor, nn.Parameter) and weight.is_contiguous()
    if not (is_dense and weight.dtype in FLOATS and 0 < len(weight) <= MAX_WIDTH):
        raise RefusedError(f"weights of {weight.dtype}" if is_dense else "quantised")
    return found_or_refused(lambda: _found(module), "no RMS norm of a known form")


def _is_other(module: nn.Module) -> bool:
    parameters = list(module.named_parameters())
    return [name for name, _ in parameters] != ["weight"] or parameters[0][1].ndim != 1


def _found(module: Any) -> Norm | None:
    weight = module.weight.detach()
    wide = copy.deepcopy(module).float()
    epsilons = {float(getattr(module, name)) for name in _EPSILONS if hasattr(module, name)}
    forms = [Norm(weight, epsilon, *form) for epsilon in epsilons for form in _FORMS]
    right = [n for n in forms if _num_others(wide, n._replace(weights=wide.weight)) is not None]
    if weight.dtype == torch.float32:
        return right[0] if right else None
    others = [(found, n) for n in right if (found := _num_others(module, n)) is not None]
    return min(others, key=lambda pair: pair[0])[1] if others else None


def _num_others(module: Any, norm: Norm) -> int | None:
    """In how many numbers the kernel differs from a norm by rounding; None where it is by more."""
    inputs = inputs_like(len(norm.weights), norm.weights)
    ours, own = rms_norm(inputs[0], norm), module(inputs)[0]
    return int((ours != own).sum()) if is_equal(ours, own) else None


def _forward(norm: Norm, module: Any, inputs: torch.Tensor) -> torch.Tensor:
    """The module's forward; its own for states of another type than its weights."""
    if inputs.dtype != norm.weights.dtype:
        own: torch.Tensor = type(module).forward(module, inputs)
        return own
    return rms_norm(inputs.reshape(-1, inputs.shape[-1]), norm).view(inputs.shape)
