from typing import Any

import pytest
import torch
from torch.testing import assert_close

from greater_fast.kernels import reference
from greater_fast.kernels.attention.kv_blocks import copy_blocks, store_kv

pytestmark = pytest.mark.usefixtures("gpu_if_any")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("kv_heads", "head_size"), [(1, 1), (2, 12), (3, 64), (2, 80)])
def test_store(dtype: torch.dtype, kv_heads: int, head_size: int) -> None:
    """New rows, views among them, in their slots, and nothing else changed."""
    new = torch.randn(2, kv_heads, 5, head_size).to(dtype).transpose(1, 2)
    pool = torch.full((2, 7, kv_heads, 16, head_size), torch.nan, dtype=dtype)
    wanted, slots = pool.clone(), torch.tensor([40, 3, 111, 16, 0], dtype=torch.int32)
    store_kv((new[0], new[1]), (pool[0], pool[1]), slots)
    reference.store_kv((new[0], new[1]), (wanted[0], wanted[1]), slots)
    assert torch.equal(bits(pool), bits(wanted))
    assert (~pool.isnan()).sum() == new.numel()


def test_new_rows_lie_beyond_what_32_bits_count() -> None:
    torch.use_deterministic_algorithms(False)  # its pages are touched where rows lie, only there
    memory = torch.empty((1 << 31) + 64, dtype=torch.bfloat16)
    new = memory.as_strided((3, 1, 16), (1 << 30, 16, 1))
    rows = torch.randn(3, 1, 16).to(torch.bfloat16)
    new.copy_(rows)
    pool = torch.zeros(2, 1, 1, 16, 16, dtype=torch.bfloat16)
    store_kv((new, new), (pool[0], pool[1]), torch.tensor([4, 9, 2], dtype=torch.int32))
    assert torch.equal(pool[:, 0, 0, [4, 9, 2]], rows[:, 0].expand(2, 3, 16))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 8, 1, 16, 12), (3, 9, 2, 16, 80)])
def test_copy(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Blocks of all layers; pairs of nothing but padding do nothing."""
    data = torch.randn(shape[0], 2, *shape[1:]).to(dtype)
    data[:, :, 0] = torch.nan
    wanted = data.clone()
    pairs = torch.tensor([[3, 5], [3, 7], [6, 1], [0, 0], [0, 0]], dtype=torch.int32)
    copy_blocks(data, pairs)
    reference.copy_blocks(wanted, pairs)
    assert_close(data, wanted, rtol=0, atol=0, equal_nan=True)  # a GPU has several NaN
    assert torch.equal(data[:, :, 7], data[:, :, 3])
    copy_blocks(data, torch.zeros(4, 2, dtype=torch.int32))
    assert_close(data, wanted, rtol=0, atol=0, equal_nan=True)  # a GPU has several NaN


def test_wrong_arguments() -> None:
    new, pool = torch.zeros(4, 2, 8), torch.zeros(3, 2, 16, 8)
    slots = torch.zeros(4, dtype=torch.int32)
    wrong: list[tuple[Any, str]] = [
        (((new[1:], new), (pool, pool), slots), "new keys: got"),
        (((new, new.half()), (pool, pool), slots), "new values: got"),
        (((new, new), (pool, pool), slots.long()), "slots: got torch.int64"),
        (((new, new), (pool, pool), slots.to("meta")), "got tensors on .* and meta"),
        (((new, new), (pool, pool[1:]), slots), "values: got"),
        (((new, new), (pool.double(), pool.double()), slots), "keys: got"),
        (((new, new), (pool.transpose(0, 1), pool.transpose(0, 1)), slots), "contiguous pool"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            store_kv(*arguments)
    data = torch.zeros(2, 2, 3, 1, 16, 4)
    with pytest.raises(ValueError, match="pairs: got"):
        copy_blocks(data, torch.zeros(2, 3, dtype=torch.int32))
    with pytest.raises(ValueError, match="data: expected"):
        copy_blocks(data.transpose(0, 1), torch.zeros(2, 2, dtype=torch.int32))
