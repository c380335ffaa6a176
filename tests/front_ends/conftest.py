"""Front ends are tested where their packages are: pages of theirs as all pages are."""

import re
from pathlib import Path
from typing import Any

import pytest

from greater_fast.front_ends.missing import is_offered
from greater_fast.model.lm import LM, load_lm
from tests.docs.conftest import finished_run, place, short_runs
from tests.tiny import tiny_model

__all__ = ["finished_run", "place", "short_runs"]

# Files that import an extra's packages, which may not be there for every Python.
_EXTRAS = {"test_peers.py": "promptolution", "test_promptolution.py": "promptolution"}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where they are not asked for, their packages are missing, and a test is not even imported.

    Nor is it where this Python has no such packages; elsewhere one that is missing is an error.
    """
    is_asked_for = re.search(r"(?<!not )\bfront_ends\b", config.option.markexpr)
    is_left_out = not is_offered(_EXTRAS.get(collection_path.name, ""))
    return True if is_left_out or not is_asked_for else None


@pytest.fixture(scope="session")
def lm(tokenizer: Any) -> LM:
    """The tiny model with room for what frameworks write around a question."""
    model = tiny_model("llama", len(tokenizer))
    model.config.max_position_embeddings = 2048
    return load_lm((model, tokenizer))
