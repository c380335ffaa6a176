"""Counts the variants that Triton would compile over packed rows of all sizes; prints them as JSON.

No kernel runs: launches are recorded, by what Triton tells them apart by. Needs no GPU, but a
process of its own without TRITON_INTERPRET.
"""

import json
import sys
from collections import defaultdict
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from greater_fast.kernels.attention.packed import packed_attention
from tests.kernels.attention.packed_row import make_row

ROWS = [[(0, 1)], [(17, 5), (0, 33), (300, 16)], [(16, 16), (5, 0)], [(1, 2)] * 16]
OPTIONS = [(0.3, 0.0, 0), (1.0, 0.0, 1), (0.125, 0.0, 16), (0.3, 0.0, 4097)]

variants: dict[str, set[str]] = defaultdict(set)


def record(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
    """In place of a launch."""
    backend = make_backend(GPUTarget("cuda", 90, 32))
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    _, kinds, options = bind(*args, **kwargs)
    variants[kernel.fn.__name__].add(str((kinds, sorted(options.items()))))


if __name__ == "__main__":
    JITFunction.run = record
    for segments in ROWS:
        row = make_row(segments, head_size=64, dtype=torch.bfloat16)
        for options in OPTIONS:
            leaves = [state.requires_grad_() for state in row.states]
            by_heads = [leaf.transpose(0, 1).contiguous().transpose(0, 1) for leaf in leaves]
            for queries, keys, values in (leaves, by_heads):
                found = packed_attention((queries, keys, values), row.pool, row.segments, *options)
                found.backward(row.gradient)
    json.dump({name: len(found) for name, found in variants.items()}, sys.stdout)
