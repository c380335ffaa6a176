"""GReaTer on one GPU: optimise a prompt by gradients over the model's own reasoning."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from greater_fast.api import evaluate, optimize, plan
    from greater_fast.config import Config
    from greater_fast.examples.data import Example, load_examples
    from greater_fast.runs.result import Result

__all__ = ["Config", "Example", "Result", "evaluate", "load_examples", "optimize", "plan"]


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for: what it needs takes seconds."""
    rooms = {
        "greater_fast.api": ("evaluate", "optimize", "plan"),
        "greater_fast.config": ("Config",),
        "greater_fast.examples.data": ("Example", "load_examples"),
        "greater_fast.runs.result": ("Result",),
    }
    for room, names in rooms.items():
        if name in names:
            return getattr(importlib.import_module(room), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
