"""Where kernels run in tests, and what the memory holds that they are given."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from triton import language as tl
from triton.runtime import interpreter


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """New tensors hold NaN, or the largest integer, until they are written to."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else torch refuses to multiply
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def gpu_if_any() -> Iterator[None]:
    """New tensors are on the GPU; where there is none, the interpreter takes the CPU's."""
    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    yield
    torch.set_default_device(None)


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    """New tensors of no given type are float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def rounded_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Casts to bfloat16 go to the nearest; the interpreter's own cut off what does not fit."""
    convert = interpreter._convert_float

    def to_nearest(data: Any, source: Any, target: Any, mode: Any) -> Any:
        if source != tl.float32 or target != tl.bfloat16:
            return convert(data, source, target, mode)
        nearest = torch.from_numpy(np.array(data)).to(torch.bfloat16)
        return nearest.view(torch.int16).numpy().view(np.uint16)

    monkeypatch.setattr(interpreter, "_convert_float", to_nearest)


@pytest.fixture(autouse=True)
def patched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """At each call of a helper the interpreter goes through all of triton.language to replace it.

    That takes half of the time of these tests, and all but the first time finds nothing left to do.
    """
    patch = interpreter._patch_lang

    def patch_what_is_left(function: Any) -> Any:
        languages = [
            value for value in function.__globals__.values() if value is tl or value is tl.core
        ]
        if any(tl.core.is_builtin(language.load) for language in languages):
            return patch(function)
        return interpreter._LangPatchScope()

    monkeypatch.setattr(interpreter, "_patch_lang", patch_what_is_left)
