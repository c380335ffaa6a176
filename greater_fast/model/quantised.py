"""What quantised layers need for a gradient to flow through them."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

_FILTERS = threading.Lock()  # Python's warning filters are one list for all threads


def keep_differentiable(model: Any) -> None:
    """Keep bitsandbytes from packing 4-bit weights on first use.

    It does so on a CPU with AVX512-BF16, and a product with packed weights has no gradient.

    Raises:
        ValueError: they are packed already.
    """
    for module in model.modules():
        if not hasattr(module, "support_avx512bf16_for_cpu"):
            continue
        state = getattr(module.weight, "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            raise ValueError(
                "the model's 4-bit weights were packed for inference when it was first used, and "
                "have no gradient so: load it afresh"
            )
        module.support_avx512bf16_for_cpu = False


@contextlib.contextmanager
def gradient_everywhere() -> Iterator[None]:
    """Make an error of torch's warning that an operator passes no gradient on.

    Raises:
        ValueError: there is one; names it.
    """
    with _FILTERS, warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*an autograd kernel was not registered")
        try:
            yield
        except UserWarning as warning:
            operator = str(warning).partition(": ")[0]
            raise ValueError(
                f"the model has a layer without a gradient, made by {operator}: use another kind "
                "of quantisation"
            ) from warning


@contextlib.contextmanager
def gradient_watched(model: torch.nn.Module) -> Iterator[list[str]]:
    """Within, layers that are given a state with a gradient and return one without are listed.

    Kernels for inference that Python calls itself do so without a word. Only modules that hold
    numbers are looked at, and outputs of one tensor for as many tokens: a rotary embedding's, which
    depends on no state, are none.
    """
    cut: list[str] = []

    def see(name: str, module: Any, given: tuple[Any, ...], output: Any) -> None:
        states = [x for x in given if isinstance(x, torch.Tensor) and x.requires_grad]
        if not isinstance(output, torch.Tensor) or output.requires_grad:
            return
        if not torch.is_grad_enabled():  # the model's own will, as where it chooses what to read
            return
        if output.is_floating_point() and any(x.shape[:-1] == output.shape[:-1] for x in states):
            cut.append(f"{name} ({type(module).__name__})")

    hooks = [
        module.register_forward_hook(partial(see, name))
        for name, module in model.named_modules()
        if module._parameters or module._buffers
    ]
    try:
        yield cut
    finally:
        for hook in hooks:
            hook.remove()
