"""GReaTer on one GPU: optimise a prompt by gradients over the model's own reasoning."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from greater_fast.api import evaluate, optimize, plan
    from greater_fast.config import Config
    from greater_fast.examples.data import Example, load_examples
    from greater_fast.resuming import resume
    from greater_fast.runs.result import Result

__all__ = [
    "Config",
    "Example",
    "Result",
    "evaluate",
    "load_examples",
    "optimize",
    "plan",
    "resume",
]

_HOMES = {
    "Config": "greater_fast.config",
    "Example": "greater_fast.examples.data",
    "Result": "greater_fast.runs.result",
    "evaluate": "greater_fast.api",
    "load_examples": "greater_fast.examples.data",
    "optimize": "greater_fast.api",
    "plan": "greater_fast.api",
    "resume": "greater_fast.resuming",
}


def __getattr__(name: str) -> Any:
    """A public name, when it is first asked for: what it needs takes seconds (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
