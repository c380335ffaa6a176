"""How the served model is asked in these tests, and how it can fail."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from greater_fast import Config, Example
from greater_fast.examples.extractor import make_extractor
from greater_fast.examples.layout import build_layouts
from greater_fast.front_ends.endpoint import Server, evaluate_endpoint
from greater_fast.model.lm import LM
from greater_fast.runs.result import Report
from tests.front_ends.served import Handler, Served
from tests.tiny import PROMPT

OTHER = "Think step by step and answer."
EXTRACTOR = "The answer is"
CONFIG = {"max_new_tokens": 6, "max_prompt_tokens": 40, "extractor": EXTRACTOR}
ROOT = Path(__file__).resolve().parents[3]
KEY = "sk-only-for-this-test"
Rows = list[dict[str, str]]


def server(served: Served, **options: Any) -> Server:
    return Server(**{"url": served.url, "model": "tiny", "wait_s": 0.001, **options})


def measured(served: Served, rows: Any, **options: Any) -> Report:
    """The report of the served model, in the tokenizer's layout unless told otherwise."""
    asked = {name: options.pop(name) for name in list(options) if name in Server.__slots__}
    given = {"prompt": PROMPT, "tokenizer": served.lm, "config": CONFIG, "progress": False}
    return evaluate_endpoint(server(served, **asked), rows, **{**given, **options})


def fails(times: int, status: int = 500, **headers: str) -> Callable[[Handler, str, Any], bool]:
    """A fault: completions of rows fail so many times."""
    left = [times]

    def fault(handler: Handler, path: str, body: Any) -> bool:
        if path != "/v1/completions" or body["max_tokens"] == 1 or left[0] <= 0:
            return False
        left[0] -= 1
        handler.send(status, {"error": {"message": "try\x1b[31m again"}}, **headers)
        return True

    return fault


def layouts_of(lm: LM, rows: Rows, prompt: str = PROMPT) -> Any:
    config = Config.from_mapping(CONFIG)
    return build_layouts(
        lm, [Example(**row) for row in rows], prompt, make_extractor(EXTRACTOR), config
    )
