"""DSPy on our engine: a local LM, a teleprompter that searches for instructions, an adapter."""

from greater_fast.front_ends.missing import needs

try:
    import dspy  # noqa: F401 (the framework: imports here are absolute)
except ImportError as error:
    raise needs("dspy", error) from error

from greater_fast.front_ends.dspy.adapter import InstructionLast
from greater_fast.front_ends.dspy.engine import AsyncGreaterEngine, GreaterEngine, local_lm
from greater_fast.front_ends.dspy.teleprompter import GReaTer

__all__ = ["AsyncGreaterEngine", "GReaTer", "GreaterEngine", "InstructionLast", "local_lm"]
