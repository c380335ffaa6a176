"""Where kernels run in tests, and what the memory holds that they are given."""

from collections.abc import Iterator

import pytest
import torch


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
