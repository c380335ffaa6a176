"""The bars that transformers and its hub show as they fetch and load a model."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Show none within the block: of weights that are loaded, dequantised or fetched."""
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging

    gguf: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    hook = logging.set_tqdm_hook(lambda bar, args, options: logging.EmptyTqdm(*args, **options))
    bar, gguf.tqdm = gguf.tqdm, functools.partial(gguf.tqdm, disable=True)
    # Where the hub is told by its variable, it warns of being told otherwise.
    is_told = constants.HF_HUB_DISABLE_PROGRESS_BARS is not None
    shows_fetching = not is_told and not are_progress_bars_disabled()
    if shows_fetching:
        disable_progress_bars()
    try:
        yield
    finally:
        if shows_fetching:
            enable_progress_bars()
        gguf.tqdm = bar
        logging.set_tqdm_hook(hook)
