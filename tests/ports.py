"""Ports for processes that meet; those of tests side by side lie apart."""

import itertools
import os
import socket

_DRAWN = itertools.count(97 * os.getpid())


def free_port() -> int:
    """One that is free, and of those that no system hands out unasked."""
    while True:
        port = 20000 + next(_DRAWN) % 10000
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
