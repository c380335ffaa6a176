"""What a GPU would be given to do: operators of torch that calculate, and kernels of ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Nothing is launched for these in eval mode, and for none that makes a view.
_FREE = {
    "_unsafe_view",
    "alias",
    "detach",
    "dropout",
    "empty",
    "empty_like",
    "new_empty",
    "lift_fresh",
}


class _Operators(TorchDispatchMode):
    def __init__(self, launched: list[str]) -> None:
        super().__init__()
        self._launched = launched

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in _FREE and not func.is_view:
            self._launched.append(name)
        return func(*args, **kwargs or {})


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Names of what is launched within, in order."""
    launched: list[str] = []
    with pytest.MonkeyPatch.context() as patch, _recorded_kernels(patch, launched):
        yield launched


@contextmanager
def _recorded_kernels(patch: pytest.MonkeyPatch, launched: list[str]) -> Iterator[None]:
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    for kind in (InterpretedFunction, JITFunction):
        own = kind.run

        def run(self: Any, *args: Any, _own: Any = own, **options: Any) -> Any:
            launched.append(self.fn.__name__)
            with torch._C._DisableTorchDispatch():  # the interpreter's own copies
                return _own(self, *args, **options)

        patch.setattr(kind, "run", run)
    with _Operators(launched):
        yield
