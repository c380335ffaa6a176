"""What of a model's layers runs by csrc on a CPU, in rollouts and in the gradient pass.

Beside the products, a step has a few dozen small operators in each layer, and each costs as much as
a product of few rows: norms, MLPs, and the way into the attention are one call each here.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from greater_fast.model.cpu.heads import heads_forward
from greater_fast.model.cpu.linear import CPULinears
from greater_fast.model.cpu.mlp import mlp_forward
from greater_fast.model.cpu.norm import norm_forward
from greater_fast.model.forwards import Forward, replaced_forwards
from greater_fast.model.lm import LM


class CPULayers:
    """Modules of a model that can be taken over; weights are shared, not copied.

    Linear layers are known by their class. Norms, MLPs and attention modules are tried: each is
    taken over if its own forward and ours give the same but for rounding. `are_all_linears` says
    that no layer multiplies by a matrix elsewhere. Weights changed in place are seen, replaced
    ones are not.
    """

    def __init__(self, lm: LM) -> None:
        linears = CPULinears(lm)
        self.are_all_linears = linears.are_all
        self.note = ""
        forwards: list[tuple[Any, Forward]] = []
        for module in lm.model.modules():
            found = norm_forward(module) or mlp_forward(module) or heads_forward(lm, module)
            if found is not None:
                forwards.append((module, found))
        self._forwards = [*linears.forwards, *forwards]

    def installed(self) -> AbstractContextManager[None]:
        """Within, the layers run here; a gradient reaches their inputs, and no parameter."""
        return replaced_forwards(self._forwards)
