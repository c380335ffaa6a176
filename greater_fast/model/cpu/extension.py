"""The C++ extension, or a word on how to build it."""

from __future__ import annotations

import torch  # noqa: F401 (it brings the OpenMP library that the extension shares with it)

try:
    from greater_fast._core import (
        Scheduler,
        Stop,
        gate_backward,
        gated_mlp,
        linear,
        linears_backward,
        packed_attention,
        packed_attention_backward,
        paged_attention,
        read_logits,
        rms_norm,
        rms_norm_backward,
        turn_back,
        turned_linears,
    )
except ImportError as error:
    raise ImportError(
        f"the C++ extension of greater_fast cannot be imported from the folder that Python takes "
        f"greater_fast from ({error}): run `pip install -e .` in the source folder to build it (it "
        "needs a C++17 compiler; CMake and ninja come with it), or leave that folder to use the "
        "installed package"
    ) from error

__all__ = [
    "Scheduler",
    "Stop",
    "gate_backward",
    "gated_mlp",
    "linear",
    "linears_backward",
    "packed_attention",
    "packed_attention_backward",
    "paged_attention",
    "read_logits",
    "rms_norm",
    "rms_norm_backward",
    "turn_back",
    "turned_linears",
]
