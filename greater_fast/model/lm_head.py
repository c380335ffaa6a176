"""How a model makes its logits: a matrix, most often nothing else, then a scale and a soft cap."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from greater_fast.kernels.reference import Head


class LogitScaling(NamedTuple):
    """Logits of an LM head's products x: `cap tanh(scale x / cap)`, or `scale x` where it is 0."""

    scale: float
    soft_cap: float

    @classmethod
    def of(cls, config: Any) -> LogitScaling:
        """As a model's configuration says it: Cohere multiplies, Granite divides, Gemma caps."""

        def value(*names: str) -> float:
            return float(next((v for n in names if (v := getattr(config, n, None))), 0.0))

        scale = value("logit_scale", "lm_head_multiplier") or 1.0
        cap = value("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
        return cls(scale / (value("logits_scaling") or 1.0), cap)

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
