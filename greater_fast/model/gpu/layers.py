"""What of a model's layers runs by Triton on a GPU, in rollouts and in the gradient pass.

Beside its products, a decoder layer of transformers has about thirty small operators. Each is a
launch, which takes as long as a good part of a product of few rows: norms with the adds before
them, gates with their products, and the way into the attention are one launch each here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from greater_fast.model.forwards import Forward, replaced_forwards
from greater_fast.model.gpu.decoder_layer import layer_forward
from greater_fast.model.gpu.heads import heads_forward
from greater_fast.model.gpu.mlp import mlp_forward
from greater_fast.model.gpu.norm import norm_forward
from greater_fast.model.gpu.refusal import RefusedError
from greater_fast.model.lm import LM

# What a module of a kind is replaced by; None where it is none of that kind. Raises `RefusedError`
# where it is, and cannot be taken over.
Find = Callable[[LM, Any], Forward | None]


class GPULayers:
    """Modules of a model that can be taken over; weights are shared, not copied.

    Each is tried: it is taken over if its own forward and ours give the same but for rounding.
    Products stay torch's, but those that read the same states are one (`merged_weights`). `note`
    says how many modules of each kind were taken over, and why others were not. Weights changed in
    place are seen, replaced ones are not.
    """

    are_all_linears = False  # products are torch's

    def __init__(self, lm: LM) -> None:
        self._forwards: list[tuple[Any, Forward]] = []
        kinds = [self._find(lm, kind, find) for kind, find in _KINDS.items()]
        self.note = f"layers in Triton: {', '.join(kinds)}"

    def installed(self) -> AbstractContextManager[None]:
        """Within, the layers run here; a gradient reaches their inputs, and no parameter."""
        return replaced_forwards(self._forwards)

    def _find(self, lm: LM, kind: str, find: Find) -> str:
        """How many of a kind were taken over, and why others were not."""
        num_taken, reasons = 0, Counter[str]()
        for module in lm.model.modules():
            try:
                forward = find(lm, module)
            except RefusedError as refusal:
                reasons[str(refusal)] += 1
                continue
            if forward is not None:
                num_taken += 1
                self._forwards.append((module, forward))
        if not num_taken and not reasons:
            return f"no {kind} of a known form"
        why = f" ({', '.join(reasons)})" if reasons else ""
        return f"{kind} {num_taken} of {num_taken + reasons.total()}{why}"


_KINDS: dict[str, Find] = {
    "norms": norm_forward,
    "MLPs": mlp_forward,
    "residual adds": layer_forward,
    "attention": heads_forward,
}
