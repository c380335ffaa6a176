"""A run's prompt for use elsewhere: the message as the model read it, and the lines that use it."""

from __future__ import annotations

import os

from greater_fast.export.formats import as_chat_json, as_text, as_vllm
from greater_fast.export.rendering import rendering_of
from greater_fast.runs.directory import read_run
from greater_fast.runs.visible import visible

FORMATS = {"text": as_text, "chat-json": as_chat_json, "vllm": as_vllm}


def export_run(run_dir: str | os.PathLike[str], to: str, model: str | None = None) -> str:
    """The best prompt of a run in a format: "text", "chat-json" or "vllm".

    Of the model its configuration and tokenizer are read; `model` names it where the run does not,
    or which of several it is. The rendering is compared with the ids of all rows of the run.

    Raises:
        ValueError: there is no such run or format, or no model; what the tokenizer makes of the
            rendering is not what the run used.
    """
    if to not in FORMATS:
        raise ValueError(f"to: got {to!r}, expected one of {', '.join(FORMATS)}")
    return visible(FORMATS[to](rendering_of(read_run(run_dir), model)))
