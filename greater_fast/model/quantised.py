"""What quantised layers need for a gradient to flow through them."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import Any

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
