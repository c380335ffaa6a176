"""Front ends are tested where their packages are: pages of theirs as all pages are."""

import re
from typing import Any

import pytest

from greater_fast.model.lm import LM, load_lm
from tests.docs.conftest import finished_run, place, short_runs
from tests.tiny import tiny_model

__all__ = ["finished_run", "place", "short_runs"]


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Where they are not asked for, their packages are missing, and a test is not even imported."""
    return None if re.search(r"(?<!not )\bfront_ends\b", config.option.markexpr) else True


@pytest.fixture(scope="session")
def lm(tokenizer: Any) -> LM:
    """The tiny model with room for what frameworks write around a question."""
    model = tiny_model("llama", len(tokenizer))
    model.config.max_position_embeddings = 2048
    return load_lm((model, tokenizer))
