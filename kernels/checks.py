"""What a kernel may be given, checked before it is launched."""

from __future__ import annotations

import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
MAX_HEAD_SIZE = 512  # numbers of a head that attention's kernels take
_MAX_PACKED_FLOAT32 = 256  # of a packed row: wider ones would not fit in shared memory


def expect(name: str, tensor: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raise ValueError unless a tensor has this shape and dtype and a contiguous last dimension."""
    if tuple(tensor.shape) != shape or tensor.dtype != dtype or tensor.stride(-1) != 1:
        raise ValueError(
            f"{name}: got {tensor.dtype} {tuple(tensor.shape)} of strides {tensor.stride()}, "
            f"expected {dtype} {shape} with a contiguous last dimension"
        )


def max_packed_head(dtype: torch.dtype) -> int:
    """Numbers of a head that packed attention's kernels take."""
    return MAX_HEAD_SIZE if dtype.itemsize == 2 else _MAX_PACKED_FLOAT32


def expect_ints(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless a tensor is int32, contiguous and of this shape."""
    expect(name, tensor, shape, torch.int32)
    if not tensor.is_contiguous():
        raise ValueError(f"{name}: expected a contiguous tensor")


def expect_pool(pool: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Raise ValueError unless keys and values are [blocks, KV, S, D], alike and contiguous."""
    if pool[0].ndim != 4 or pool[0].dtype not in FLOATS:
        raise ValueError(
            f"keys: got {pool[0].dtype} {tuple(pool[0].shape)}, expected [blocks, KV, S, D] "
            "float32, bfloat16 or float16"
        )
    for name, tensor in zip(("keys", "values"), pool, strict=True):
        expect(name, tensor, tuple(pool[0].shape), pool[0].dtype)
        if not tensor.is_contiguous():
            raise ValueError(f"{name}: expected a contiguous pool")


def expect_together(*tensors: torch.Tensor) -> None:
    """Raise ValueError unless tensors are on one device: another's memory must not be read."""
    devices = sorted({str(tensor.device) for tensor in tensors})
    if len(devices) > 1:
        raise ValueError(f"got tensors on {' and '.join(devices)}, expected one device")
