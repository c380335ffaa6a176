"""Modules that run another forward for a while, and whether they may.

It is tried: their own forward and ours are compared on random inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from greater_fast.model.byte_sizes import is_out_of_memory

Forward = Callable[..., Any]
Found = TypeVar("Found")

# What a module of another form than the one that is tried answers with.
UNLIKE = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
_UNITS = 64  # in the last place, of a row's length: sums in another order, and no more
_UNITS_OF_16_BITS = 2  # sums are in float32; a unit is up to 1/128
_COARSE = 1e-4  # steps above are of 16 bits, or of TF32


@contextmanager
def replaced_forwards(forwards: Sequence[tuple[Any, Forward]]) -> Iterator[None]:
    """Within, each module of the pairs runs the forward beside it; then what it had before."""
    own = [vars(module).get("forward") for module, _ in forwards]
    try:
        for module, forward in forwards:
            vars(module)["forward"] = forward
        yield
    finally:  # Ctrl-C may come before all of them were replaced
        for (module, _), before in zip(forwards, own, strict=True):
            vars(module).pop("forward", None)
            if before is not None:
                vars(module)["forward"] = before


def tried(find: Callable[[], Found | None]) -> Found | None:
    """What `find` finds, without a gradient; None where the module is of another form."""
    try:
        with torch.no_grad():
            return find()
    except UNLIKE as error:
        if is_out_of_memory(error):
            raise
        return None


def lengths_of(vectors: torch.Tensor) -> torch.Tensor:
    """Lengths of vectors [..., D], in float64 on the CPU: not all devices have numbers so wide."""
    lengths: torch.Tensor = vectors.detach().cpu().double().norm(dim=-1)
    return lengths


def alike(states: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether states [..., D] are the same but for rounding, row by row relative to its length.

    16 bits alone make a few hundredths through many layers.
    """
    allowed = 1e-2 if own.dtype.itemsize > 2 else 1e-1
    distances, lengths = (lengths_of(x) for x in (states - own, own))
    return bool((distances <= allowed * lengths).all())


def rounding_step(like: torch.Tensor) -> float:
    """The step of a product's last place, relative to it: of TF32 where a GPU was told so."""
    is_tf32 = (
        like.is_cuda
        and like.dtype == torch.float32
        and torch.backends.cuda.matmul.fp32_precision not in ("none", "ieee")
    )
    return 2.0**-10 if is_tf32 else torch.finfo(like.dtype).eps


def rounds_coarsely(like: torch.Tensor) -> bool:
    """Whether rounding alone makes differences that are seen: in 16 bits, and in TF32."""
    return rounding_step(like) > _COARSE


def is_equal(ours: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether two tensors [..., D] are the same but for rounding, row by row."""
    if ours.shape != own.shape or ours.dtype != own.dtype:
        return False
    limit = rounding_step(own) * (_UNITS_OF_16_BITS if rounds_coarsely(own) else _UNITS)
    wide = torch.promote_types(own.dtype, torch.float32)
    distances, lengths = ((ours.to(wide) - own).norm(dim=-1), own.to(wide).norm(dim=-1))
    return bool((distances <= limit * lengths).all())


def inputs_like(width: int, like: torch.Tensor) -> torch.Tensor:
    """Random rows [1, M, width] of many sizes, the same every time, of the type of `like`."""
    source = torch.Generator().manual_seed(0)
    sizes = torch.logspace(-4, 3, 15, dtype=torch.float64, device="cpu")[:, None]
    shape = len(sizes), width
    rows = sizes * torch.randn(shape, generator=source, dtype=torch.float64, device="cpu")
    return rows.to(like)[None]


def is_untouched(module: nn.Module) -> bool:
    """Whether a module and those inside run their classes' forwards, with nothing hooked in."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return not any(
        "forward" in vars(m) or any(getattr(m, name) for name in hooks) for m in module.modules()
    )


def needs_gradient(inputs: torch.Tensor) -> bool:
    """Whether a gradient is to flow to the inputs: else nothing is kept for it."""
    return inputs.requires_grad and torch.is_grad_enabled()
