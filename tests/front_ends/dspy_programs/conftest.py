"""The tiny model as DSPy's LM, and DSPy configured with it."""

from collections.abc import Iterator
from typing import Any

import dspy
import pytest

from greater_fast.front_ends.dspy import local_lm
from greater_fast.model.lm import LM, load_lm
from tests.front_ends.dspy_programs.programs import LIMIT, LenientLast
from tests.tiny import tiny_model


@pytest.fixture(scope="package", autouse=True)
def no_cache() -> None:
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)


@pytest.fixture(scope="package")
def attentive(tokenizer: Any) -> LM:
    """A tiny model that attends to all of its context, so that instructions change its replies."""
    model = tiny_model("llama", len(tokenizer))
    model.config.max_position_embeddings = 2048
    for name, weight in model.named_parameters():
        weight.mul_({"q_proj": 3, "o_proj": 4}.get(name.split(".")[-2], 1))
    return load_lm((model, tokenizer))


@pytest.fixture(scope="package")
def asked(attentive: LM) -> Any:
    """The tiny model as a DSPy LM."""
    return local_lm(attentive, config={"max_new_tokens": LIMIT})


@pytest.fixture
def context(asked: Any) -> Iterator[None]:
    """DSPy configured as a user does, for the length of a test."""
    with dspy.context(lm=asked, adapter=LenientLast()):
        yield
