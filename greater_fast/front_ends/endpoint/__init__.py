"""A prompt measured on a served model: any server with OpenAI's completions, or chat alone.

The rows, what asks for the answer, intervals and tests are those of `evaluate`; the server
generates.
"""

from greater_fast.front_ends.endpoint.evaluate import evaluate_endpoint
from greater_fast.front_ends.endpoint.server import Server

__all__ = ["Server", "evaluate_endpoint"]
