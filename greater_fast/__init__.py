"""GReaTer on one GPU: optimise a prompt by gradients over the model's own reasoning."""

from greater_fast.api import evaluate, optimize
from greater_fast.config import Config
from greater_fast.examples.data import Example, load_examples
from greater_fast.runs.result import Result

__all__ = ["Config", "Example", "Result", "evaluate", "load_examples", "optimize"]
