"""Triton's interpreter, with products whose rows do not depend on their place in a tile.

It multiplies tiles by numpy, so by a BLAS whose sums may be in another order for another row of a
tile (seen with OpenBLAS' kernels for Haswell). A GPU's tensor cores treat all rows alike, and tests
compare rows bit by bit.
"""

from typing import Any

import numpy as np


def treat_rows_alike(monkeypatch: Any) -> None:
    """Multiply tiles by sums in one order for every row."""
    from triton.runtime import interpreter

    def create_dot(self: Any, a: Any, b: Any, d: Any, *precision: Any) -> Any:
        product = np.einsum("...ik,...kj->...ij", a.data, b.data, dtype=d.data.dtype)
        return interpreter.TensorHandle(product + d.data, d.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
