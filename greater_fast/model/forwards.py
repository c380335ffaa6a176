"""Modules that run another forward for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

Forward = Callable[..., Any]


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
