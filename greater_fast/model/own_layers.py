"""Whose kernels run a model's layers: csrc's on a CPU, Triton's on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greater_fast.kernels.dispatch import device_obstacle
from greater_fast.model.cpu.layers import CPULayers
from greater_fast.model.lm import LM

if TYPE_CHECKING:
    from greater_fast.model.gpu.layers import GPULayers


def own_layers(lm: LM, kernels: str) -> CPULayers | GPULayers:
    """What of the layers can be taken over where `kernels` are used: "auto", "triton", ...

    On a device of another kind, or with "reference" on a GPU, that is nothing.
    """
    forced = kernels == "triton"
    on_gpu = forced or (lm.device.type == "cuda" and kernels == "auto")
    if on_gpu and device_obstacle(lm.device, forced) is None:
        from greater_fast.model.gpu.layers import GPULayers  # it needs Triton, which need not be

        return GPULayers(lm)
    return CPULayers(lm)
