"""Waiting for what happens in another thread or process, however slow the machine is."""

import time
from collections.abc import Callable
from typing import Any


def until(true: Callable[[], Any], what: str, seconds: float = 600) -> None:
    """Wait until a function gives something true; fails, and says what did not happen."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not after {seconds} s: {what}"
        time.sleep(0.02)
