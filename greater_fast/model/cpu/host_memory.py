"""Memory of what the CPU kernels make."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def new_array(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array with no particular values.

    Not torch's: that asks for aligned memory, and glibc before 2.38 never answers with a freed
    piece of the very size that is asked for. In a gradient pass, where tensors that are kept lie
    between others that come and go, the heap grew to twice what was in use.
    """
    return np.empty(shape, dtype)
