"""GReaTer on one GPU: optimise a prompt by gradients over the model's own reasoning."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from greater_fast.api import evaluate, optimize, plan
    from greater_fast.config import Config
    from greater_fast.examples.data import Example, load_examples
    from greater_fast.examples.extractor import make_extractor
    from greater_fast.examples.layout import build_layouts
    from greater_fast.model.lm import load_lm
    from greater_fast.resuming import resume
    from greater_fast.rollouts.choose import make_engine
    from greater_fast.runs.result import Result
    from greater_fast.search.found import find_prompts
    from greater_fast.texts.generation import generate
    from greater_fast.texts.together import SharedGeneration

__all__ = [
    "Config",
    "Example",
    "Result",
    "SharedGeneration",
    "build_layouts",
    "evaluate",
    "find_prompts",
    "generate",
    "load_examples",
    "load_lm",
    "make_engine",
    "make_extractor",
    "optimize",
    "plan",
    "resume",
]

_HOMES = {
    "Config": "greater_fast.config",
    "Example": "greater_fast.examples.data",
    "Result": "greater_fast.runs.result",
    "SharedGeneration": "greater_fast.texts.together",
    "build_layouts": "greater_fast.examples.layout",
    "evaluate": "greater_fast.api",
    "find_prompts": "greater_fast.search.found",
    "generate": "greater_fast.texts.generation",
    "load_examples": "greater_fast.examples.data",
    "load_lm": "greater_fast.model.lm",
    "make_engine": "greater_fast.rollouts.choose",
    "make_extractor": "greater_fast.examples.extractor",
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
