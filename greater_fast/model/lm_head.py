"""How a model makes its logits: a matrix, most often nothing else, then a scale and a soft cap."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from greater_fast.kernels.reference import Head
from greater_fast.model.byte_sizes import is_out_of_memory

_16_BITS = (torch.bfloat16, torch.float16)


class LogitScaling(NamedTuple):
    """Logits of an LM head's products x: `cap tanh(scale x / cap)`, or `scale x` where it is 0."""

    scale: float
    soft_cap: float

    @classmethod
    def of(cls, config: Any) -> LogitScaling:
        """As a model's configuration says it: Cohere multiplies, Granite divides, Gemma caps.

        HyperCLOVA X multiplies by what has the name of Granite's divisor.
        """

        def value(*names: str) -> float:
            return float(next((v for n in names if (v := getattr(config, n, None))), 0.0))

        scale = value("logit_scale", "lm_head_multiplier") or 1.0
        cap = value("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
        scaling = value("logits_scaling") or 1.0
        multiplies = getattr(config, "model_type", None) == "hyperclovax"
        return cls(scale * scaling if multiplies else scale / scaling, cap)

    def logits(self, products: torch.Tensor) -> torch.Tensor:
        """Logits, in at least float32."""
        logits = products.to(torch.promote_types(products.dtype, torch.float32))
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.soft_cap:
            logits = torch.tanh(logits / self.soft_cap) * self.soft_cap
        return logits


def plain_head(module: nn.Module, scaling: LogitScaling) -> Head | None:
    """The head where its module is one dense matrix, else None.

    Such is `torch.nn.Linear` as it is: no class derived from it, no bias, no quantised weights,
    neither a forward of its own nor hooks.
    """
    if type(module) is not nn.Linear or getattr(module, "bias", None) is not None:
        return None
    if type(module.weight) not in (nn.Parameter, torch.Tensor):
        return None
    if "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks:
        return None
    return Head(module.weight, *scaling)


def sums_in_float32(hidden: torch.Tensor) -> bool:
    """Whether torch leaves products of these 16-bit states in the float32 of their sums.

    Rounded to bfloat16, logits of about 20 are an eighth apart: the likeliest would often tie.
    """
    if hidden.device.type != "cuda" or hidden.dtype not in _16_BITS:
        return False
    return keeps_float32(hidden.device, hidden.dtype)


@cache
def keeps_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a product of two 16-bit matrices comes out in float32 there: tried once."""
    size = 16
    factor = 1 + 2**-7
    matrix = torch.full((size, size), factor, dtype=dtype, device=device)
    try:
        product = torch.mm(matrix, matrix, out_dtype=torch.float32)
    except (RuntimeError, TypeError) as error:  # no such operator, types or library there
        if is_out_of_memory(error):
            raise
        return False
    return bool((product == size * factor**2).all())  # of more digits than 16 bits hold


def float32_products(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`h Wᵀ` [..., V] float32 of 16-bit states [..., D] and weights [V, D]."""
    rows = hidden.flatten(0, -2)
    products: torch.Tensor = _Float32Products.apply(rows, weight)  # type: ignore[no-untyped-call]
    return products.view(*hidden.shape[:-1], len(weight))


class _Float32Products(torch.autograd.Function):
    """torch has no derivative of a product with a type of its own for the result."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight)
        products: torch.Tensor = torch.mm(hidden, weight.T, out_dtype=torch.float32)
        return products

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (weight,) = ctx.saved_tensors
        return grad.to(weight.dtype) @ weight, None
