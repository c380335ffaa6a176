"""Triton's interpreter, made to calculate as a GPU does.

It multiplies tiles by numpy, so by a BLAS whose sums may be in another order for another row of a
tile (seen with OpenBLAS' kernels for Haswell). A GPU's tensor cores treat all rows alike, and tests
compare rows bit by bit. And it cuts float32 off where bfloat16 ends, which a GPU rounds.
"""

from typing import Any

import numpy as np
import torch


def treat_rows_alike(monkeypatch: Any) -> None:
    """Multiply tiles by sums in one order for every row."""
    from triton.runtime import interpreter

    def create_dot(self: Any, a: Any, b: Any, d: Any, *precision: Any) -> Any:
        product = np.einsum("...ik,...kj->...ij", a.data, b.data, dtype=d.data.dtype)
        return interpreter.TensorHandle(product + d.data, d.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


def round_to_nearest(monkeypatch: Any) -> None:
    """Round float32 to the nearest bfloat16, of two the even one."""
    import triton.language as tl
    from triton.runtime import interpreter

    own = interpreter.InterpreterBuilder.cast_impl

    def cast(self: Any, src: Any, dst_type: Any) -> Any:
        if (src.dtype.scalar, dst_type.scalar) != (tl.float32, tl.bfloat16):
            return own(self, src, dst_type)
        numbers = torch.from_numpy(np.ascontiguousarray(src.data, np.float32))
        bits = numbers.to(torch.bfloat16).view(torch.uint16).numpy()
        return interpreter.TensorHandle(bits.reshape(src.data.shape), dst_type.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "cast_impl", cast)
