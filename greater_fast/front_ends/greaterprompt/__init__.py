"""GreaterPrompt's two classes on our engine: where a program imports them is all that it changes.

The search is ours: one prompt for all rows that start from the same one, where GreaterPrompt lets
each row's prompt go its own way. What else differs is told in docs/front_ends/greaterprompt.md.
"""

from typing import Any

from greater_fast.front_ends.greaterprompt.dataloader import GreaterDataloader
from greater_fast.front_ends.greaterprompt.optimizer import GreaterOptimizer

__all__ = ["GreaterDataloader", "GreaterOptimizer"]

_ELSEWHERE = ("ApeOptimizer", "ApoOptimizer", "Pe2Optimizer", "TextGradOptimizer")


def __getattr__(name: str) -> Any:
    """What GreaterPrompt has besides: it is said where to find it."""
    if name in _ELSEWHERE:
        raise ImportError(
            f"{name} asks a language model for written feedback, and is no part of greater_fast: "
            "import it from greaterprompt"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
