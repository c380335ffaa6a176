"""Which of torch's attention kernels a model runs on a GPU: all but cuDNN's."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from torch.backends.cuda import cudnn_sdp_enabled, enable_cudnn_sdp


class _CuDNNAttention:
    """cuDNN's attention as `scaled_dot_product_attention` may choose it, all over the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_without = 0
        self._was_enabled = True

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Off from when the first thread enters until the last one leaves; then as it was."""
        with self._lock:
            if self._num_without == 0:
                self._was_enabled = cudnn_sdp_enabled()
                enable_cudnn_sdp(False)
            self._num_without += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_without -= 1
                if self._num_without == 0:
                    enable_cudnn_sdp(self._was_enabled)


_CUDNN = _CuDNNAttention()  # torch's switch is the process's, and so is the count of who needs it


def without_cudnn() -> contextlib.AbstractContextManager[None]:
    """Within, attention forward and back goes by torch's other kernels.

    cuDNN makes a plan for each combination of sizes and strides, up to half a second each, and
    keeps it for good. It comes first on the cards that have it; but no two of our examples need be
    of one length, and in `generate` keys grow by one a token. A backward pass takes the kernel that
    its forward pass took: it belongs inside as well, for layers may be computed again there.
    """
    return _CUDNN.disabled()
