"""GReaTer as an optimizer of promptolution, and our engine as one of its language models."""

from greater_fast.front_ends.missing import needs

try:
    from promptolution.utils.prompt import Prompt  # noqa: F401 (of 2.3 on)
except ImportError as error:
    raise needs("promptolution", error) from error

from greater_fast.front_ends.promptolution.llm import GreaterLLM, rendered
from greater_fast.front_ends.promptolution.optimizer import GReaTer

__all__ = ["GReaTer", "GreaterLLM", "rendered"]
