"""What rounding may differ by, by type, and where a GPU multiplies float32 in TF32."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from greater_fast.model.forwards import is_equal, rounding_step, rounds_coarsely


@pytest.fixture(params=["by the function", "by the setting"])
def multiplying_in_tf32(request: pytest.FixtureRequest) -> Any:
    if request.param == "by the setting":  # after that the function has no answer
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    else:
        torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision("highest")


def on_a_gpu(dtype: torch.dtype) -> Any:
    return SimpleNamespace(is_cuda=True, dtype=dtype)


def test_steps_are_those_of_the_type() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        assert rounding_step(on_a_gpu(dtype)) == torch.finfo(dtype).eps
        assert rounds_coarsely(on_a_gpu(dtype)) == (dtype.itemsize == 2)


@pytest.mark.usefixtures("multiplying_in_tf32")
def test_a_gpu_that_takes_tf32_rounds_as_float16_does() -> None:
    assert rounding_step(on_a_gpu(torch.float32)) == torch.finfo(torch.float16).eps
    assert rounds_coarsely(on_a_gpu(torch.float32))
    assert rounding_step(on_a_gpu(torch.float64)) == torch.finfo(torch.float64).eps
    assert rounding_step(torch.ones(1)) == torch.finfo(torch.float32).eps  # a CPU does not


@pytest.mark.parametrize(("dtype", "units"), [(torch.float32, 64), (torch.bfloat16, 2)])
def test_rows_differ_beyond_so_many_units(dtype: torch.dtype, units: int) -> None:
    own = torch.ones(3, 4, dtype=dtype)
    step = torch.finfo(dtype).eps
    near, far = (own * (1 + factor * units * step) for factor in (0.5, 2))
    assert is_equal(near.to(dtype), own)
    assert not is_equal(far.to(dtype), own)
