"""What Triton's kernels are compiled for while something runs, with or without the interpreter."""

import inspect
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

Variants = dict[str, set[tuple[Any, ...]]]


@contextmanager
def recorded_variants() -> Iterator[Variants]:
    """The variants of each kernel, by its name, that are launched within."""
    from triton.runtime.jit import KernelInterface

    own, found = KernelInterface.__getitem__, defaultdict(set)

    def at(kernel: Any, grid: Any) -> Any:
        def launch(*arguments: Any, **options: Any) -> Any:
            found[kernel.fn.__name__].add(_variant(kernel, arguments, options))
            return own(kernel, grid)(*arguments, **options)

        return launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KernelInterface, "__getitem__", at)
        yield found


def _variant(kernel: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, ...]:
    """What compiled code is kept by, as `native_specialize_impl` of Triton's runtime makes it.

    Types; constants; whether memory begins at a multiple of 16; whether a whole number is 1, or a
    multiple of 16, unless the kernel says that it must not matter; and how it is launched.
    """
    parameters = inspect.signature(kernel.fn).parameters
    given = dict(zip(parameters, arguments, strict=False)) | options
    general = getattr(kernel, "kwargs", vars(kernel)).get("do_not_specialize") or ()
    found: list[tuple[Any, ...]] = []
    for name, value in given.items():
        is_constant = name not in parameters or "constexpr" in str(parameters[name].annotation)
        if is_constant or value is None:
            found.append((name, value))
        elif isinstance(value, torch.Tensor):
            found.append((name, value.dtype, value.data_ptr() % 16 == 0))
        elif isinstance(value, int) and name not in general:
            found.append((name, value == 1, value % 16 == 0))
        else:
            found.append((name, type(value)))
    return tuple(found)
