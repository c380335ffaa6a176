"""Whether Triton can build a kernel for a GPU and launch it: one is tried, once for each."""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl


@triton.jit
def _one_kernel(out) -> None:
    tl.store(out, 1)


def build_obstacle(device: torch.device) -> str | None:
    """What keeps Triton from building and launching a kernel on this GPU; None where it can.

    Its launcher is compiled by the machine's C compiler, which images for running alone may lack,
    as they may lack Python's headers or a driver's library: errors of many kinds.

    Raises:
        torch.OutOfMemoryError: there is no room for one number.
    """
    # torch's stubs do not know that "cuda" alone has no index
    index = torch.cuda.current_device() if device.index is None else device.index  # type: ignore[redundant-expr]
    return _obstacle(index)


@functools.cache
def _obstacle(index: int) -> str | None:
    try:
        out = torch.zeros(1, dtype=torch.int32, device=torch.device("cuda", index))
        with torch.cuda.device(index):
            _one_kernel[(1,)](out)
        found = int(out.item())
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if "out of memory" in str(error).lower():  # of Triton's own: it may be there another time
            raise torch.OutOfMemoryError(str(error)) from error
        said = " ".join(str(error).split())[:300]
        return f"Triton cannot build a kernel here ({type(error).__name__}: {said})"
    return None if found == 1 else f"Triton's kernels give other numbers here ({found}, not 1)"
